"""``replicator run``: what it says when an error ends it, for people and in a log of JSON."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.cli import run as command
from replicator.config import Settings
from replicator.errors import OutboxUnavailable, ReplicatorError, TableUnusable
from tests.support.command import Command, Done, command_line

_TABLE = ("--table", "shop.orders")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    for variable in list(os.environ):
        if variable.startswith("REPLICATOR_"):
            monkeypatch.delenv(variable)
    with command_line(monkeypatch, capsys) as run:
        yield run


def ends_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_settings: Settings) -> None:
        raise error

    monkeypatch.setattr(command, "run_until_signalled", end)


def words(done: Done) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in done.err.splitlines()]
    return [(each["level"], each["event"], each["error"], each.get("hint")) for each in lines]


@pytest.mark.parametrize(
    ("error", "status"),
    [(OutboxUnavailable("full", hint="free it"), 1), (TableUnusable("gone", hint="make it"), 2)],
)
def test_the_last_words_are_a_line_of_the_log(
    error: ReplicatorError, status: int, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(error, monkeypatch)

    done = cli("run", *_TABLE, "--log-format", "json")

    assert done.status == status
    assert words(done) == [("error", "ended by an error", str(error), error.hint)]


def test_on_a_terminal_the_last_words_are_for_people(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(TableUnusable("gone", hint="make it"), monkeypatch)

    done = cli("run", *_TABLE, "--log-format", "console")

    assert (done.status, done.err) == (2, "error: gone\nhint: make it\n")


def test_a_defect_is_a_line_of_the_log_with_its_causes(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(ZeroDivisionError("by zero"), monkeypatch)

    done = cli("run", *_TABLE, "--log-format", "json")

    assert done.status == 1
    (word,) = words(done)
    assert word == (
        "error",
        "ended by a defect of the replicator",
        "ZeroDivisionError: by zero",
        None,
    )


@pytest.mark.parametrize("form", ["json", "JSON", "auto", "nonsense", None])
def test_wrong_settings_are_told_in_json_as_far_as_the_format_is_known(
    form: str | None, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form is not None:
        monkeypatch.setenv("REPLICATOR_LOG__FORMAT", form)

    done = cli("run", "--table", "nodot", "--http", "x")

    assert done.status == 2
    keys = {error.partition(" ")[0] for _, _, error, _ in words(done)}
    assert {"http.listen", "tables[0].name"} <= keys
    assert all(hint for *_, hint in words(done))


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("console", False)])
def test_the_format_counts_wherever_it_stands(
    form: str, *, is_json: bool, tmp_path: Path, cli: Command
) -> None:
    file = tmp_path / "replicator.toml"
    file.write_text(f'nonsense = 1\n[log]\nformat = "{form}"\n')

    for arguments in (["--config", str(file)], ["--log-format", form]):
        done = cli("run", *arguments)
        assert done.status == 2
        assert done.err.startswith("{" if is_json else "error: ")


def test_a_file_that_is_no_toml_is_told_in_the_format_of_the_environment(
    tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "replicator.toml"
    file.write_text("this is no TOML")
    monkeypatch.setenv("REPLICATOR_LOG__FORMAT", "console")

    assert cli("run", "--config", str(file)).err.startswith(f"error: file {file}: is not TOML")


def test_a_missing_table_is_told_in_json(cli: Command) -> None:
    assert words(cli("run", "--log-format", "json")) == [
        ("error", "ended by an error", "no table to replicate is named", "use --table DB.TABLE")
    ]


def test_other_commands_speak_to_people(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_LOG__FORMAT", "json")

    assert cli("status", "--http", "x").err.startswith("error: http.listen")
