"""``replicator status --watch``: the facts each second, with their rates."""

import datetime as dt
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from replicator.cli import output, summary
from replicator.cli.output import Facts
from replicator.cli.rates import Speedometer, forecast
from replicator.clock import now_us
from replicator.domain.instants import shown
from replicator.domain.words import duration
from replicator.errors import TransientError

_EVERY_SECONDS: Final = 1.0
# Max share of the time for refreshing, which is slow when a large backlog is counted without its
# service.
_MAX_SHARE: Final = 0.25


def watch(take: Callable[[], Facts], *, as_json: bool, count: int | None) -> None:
    """Show the facts of ``/status`` each second until Ctrl-C, or ``count`` times.

    Raises:
        ReplicatorError: The facts cannot be read the first time. Later a transient error is shown
            and only a permanent one is raised.
    """
    screen: Any = nullcontext()
    if not as_json and sys.stdout.isatty():
        screen = Live(console=output.console(), auto_refresh=False)
    with suppress(KeyboardInterrupt), screen as live:
        for facts in itertools.islice(_measured(take), count):
            if as_json:
                output.print_line(facts)
            elif live is None:
                output.say(_line(facts))
            else:
                live.update(_screen(facts), refresh=True)


def _measured(take: Callable[[], Facts]) -> Iterator[Facts]:
    """Give the facts each second, with rates and forecast, or why there are none this time."""
    speedometer = Speedometer()
    for turn in itertools.count():
        started = time.monotonic()
        facts: Facts
        try:
            facts = take()
        except TransientError as err:
            if turn == 0:
                raise
            facts = {"error": str(err)}
        else:
            rates = speedometer.measure(time.monotonic(), facts)
            state, seconds = forecast(facts["outbox"], rates)
            where = {"state": state, "seconds": seconds and round(seconds, 3)}
            facts = facts | {"rates": rates, "forecast": where}
        yield {"at": shown(now_us()), **facts}
        took = time.monotonic() - started
        time.sleep(max(_EVERY_SECONDS - took, took / _MAX_SHARE - took, 0.0))


def _clock() -> str:
    return dt.datetime.now().astimezone().strftime("%H:%M:%S")


def _rate(facts: Facts, name: str, table: str | None = None) -> str:
    """Return a rate in words; that of a table, or of all of them."""
    rate: Any = facts["rates"] and facts["rates"][f"{name}_per_second"]
    if isinstance(rate, dict):
        rate = rate.get(table, 0.0) if table else sum(rate.values())
    return f"{rate:,.1f}/s" if rate is not None else "?"


def _forecast_words(facts: Facts) -> str:
    state: str = facts["forecast"]["state"]
    after = duration(facts["forecast"]["seconds"] or 0.0)
    words = {
        "unknown": "not known yet",
        "drains": f"drains, empty in {after}",
        "fills": f"fills, full in {after}",
        "full": "full: feeds are paused",
    }
    return words.get(state, state)


def _line(facts: Facts) -> str:
    """Return one line, for a file or a pipe."""
    if "error" in facts:
        return f"{_clock()}  {facts['error']}"
    outbox, broker = facts["outbox"], facts["broker"]
    parts = [
        _clock(),
        "ready" if facts["ready"] else "not ready" if facts["running"] else "not running",
        f"captured {_rate(facts, 'captured')}",
        f"confirmed {_rate(facts, 'confirmed')}",
        f"pending {outbox['pending']:,}",
        f"parked {outbox['parked']:,}",
        f"oldest {duration(outbox['oldest_entry_age_seconds'])}",
        f"in flight {'?' if broker is None else broker['in_flight']}",
        _forecast_words(facts),
    ]
    return "  ".join([*parts, *(f"{feed['table']} {feed['state']}" for feed in facts["feeds"])])


def _screen(facts: Facts) -> Group | Text:
    if "error" in facts:
        return output.words(_line(facts))
    return Group(
        *summary.lines(facts),
        summary.line("confirmed", _rate(facts, "confirmed")),
        summary.line("backlog", _forecast_words(facts)),
        output.table(
            facts["feeds"],
            [
                "table",
                "state",
                ("#captured", lambda feed: _rate(facts, "captured", feed["table"])),
                ",total=captured",
                ",documents=snapshot_documents",
                ("gap", summary.gap_words),
            ],
        ),
        output.words((f"{_clock()}  Ctrl-C stops", "dim")),
    )
