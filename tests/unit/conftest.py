"""What several files of unit tests need."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command, command_line
from tests.support.settings import WriteToml


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    """The command line, on the outbox of the test's directory; a file may have another `cli`."""
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def toml(tmp_path: Path) -> WriteToml:
    """Write a settings file."""

    def write(text: str) -> Path:
        path = tmp_path / "replicator.toml"
        path.write_text(text)
        return path

    return write
