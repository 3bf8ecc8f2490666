"""The command line in this process: what it printed, and its exit status."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import structlog

from replicator.cli.main import main


class Done(NamedTuple):
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """What it printed, as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self) -> Any:
        """What it printed, as one JSON object."""
        return json.loads(self.out)


Command = Callable[..., Done]


@contextmanager
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Yield a function that runs a command with these arguments."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["replicator", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, said.out, said.err)

    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield run
    # A command sends logs to standard error, which after the test is another one.
    root.handlers[:], root.level = before
    structlog.reset_defaults()
