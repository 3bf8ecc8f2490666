"""How the demo tells its story: steps, figures that move on a terminal, a table at the end."""

import sys
import time
from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_REFRESH_SECONDS = 0.25


class Narrator:
    """Prints the story; in plain lines if the output is not a terminal."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        """Choose where to tell it."""
        stream = sys.stderr if to_stderr else sys.stdout
        self._console = Console(
            file=stream, highlight=False, width=None if stream.isatty() else 100
        )
        self._started_at = time.monotonic()
        self._step = 0

    def step(self, text: str) -> None:
        """Open the next chapter."""
        self._step += 1
        at = f"{time.monotonic() - self._started_at:5.1f} s"
        self._print(Text.assemble((f"{at}  ", "dim"), (f"{self._step}. {text}", "bold cyan")))

    def tell(self, text: str, style: str = "") -> None:
        """Say something within a chapter."""
        self._print(Text(f"            {text}", style=style))

    def good(self, text: str) -> None:
        """Say that something is as it should be."""
        self.tell(f"✔ {text}" if self._console.encoding.startswith("utf") else text, "green")

    def watch(
        self,
        figures: Callable[[], str],
        is_over: Callable[[], bool],
        *,
        label: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Show figures until something is over; ``check`` may raise to end it early."""
        if not self._console.is_terminal:
            while not is_over():
                check()
                time.sleep(_REFRESH_SECONDS)
        else:
            with self._console.status("") as line:
                while not is_over():
                    check()
                    line.update(Text(f"{label}: {figures()}"))
                    time.sleep(_REFRESH_SECONDS)
        self.tell(figures(), "dim")

    def table(self, title: str, rows: Iterable[tuple[str, object, str]]) -> None:
        """Show the final figures."""
        table = Table(title=title, box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
        table.add_column("what", style="bold")
        table.add_column("how many", justify="right")
        table.add_column("meaning", style="dim")
        for what, count, meaning in rows:
            table.add_row(what, f"{count:,}" if isinstance(count, int) else str(count), meaning)
        self._console.print(table)

    def _print(self, text: Text) -> None:
        # A line in a file or a pipe is not cut at a terminal's width.
        self._console.print(text, soft_wrap=not self._console.is_terminal)
        self._console.file.flush()
