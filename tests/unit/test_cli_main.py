"""The command line as a whole: help, errors, exit status."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import __version__
from replicator.domain.model import Failure, Outcomes
from tests.support.command import Command, command_line
from tests.support.feed_elements import initial
from tests.support.outbox import outbox

COMMANDS = [
    ["run"],
    ["check"],
    ["listen"],
    ["status"],
    ["migrate"],
    ["demo"],
    ["outbox"],
    ["outbox", "list"],
    ["outbox", "show"],
    ["outbox", "stats"],
    ["outbox", "redrive"],
    ["outbox", "park"],
    ["outbox", "discard"],
    ["outbox", "export"],
    ["outbox", "history"],
    ["feed"],
    ["feed", "list"],
    ["feed", "gaps"],
    ["feed", "baseline"],
    ["feed", "resync"],
    ["feed", "accept-deletes"],
]
READERS = [
    ["status"],
    ["outbox", "list"],
    ["outbox", "show", "1"],
    ["outbox", "stats"],
    ["outbox", "redrive", "1"],
    ["outbox", "redrive", "--all"],
    ["outbox", "park", "1"],
    ["outbox", "discard", "1", "--yes"],
    ["outbox", "export"],
    ["outbox", "history"],
    ["status", "--watch"],
    ["feed", "list"],
    ["feed", "gaps"],
    ["feed", "baseline", "a.b", "--yes"],
    ["feed", "resync", "a.b"],
    ["feed", "accept-deletes", "a.b", "--yes"],
    ["migrate"],
]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    for variable in list(os.environ):
        if variable.startswith("REPLICATOR_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], cli: Command) -> None:
    done = cli(*command, "--help")

    assert done.status == 0
    assert "Example: replicator " + " ".join(command) in " ".join(done.out.split())


def test_the_version_is_told(cli: Command) -> None:
    done = cli("--version")

    assert (done.status, done.out) == (0, f"replicator {__version__}\n")


def test_an_unknown_option_is_wrong_usage(cli: Command) -> None:
    done = cli("status", "--nonsense")

    assert done.status == 2
    assert "No such option" in done.err
    assert done.out == ""


def test_each_wrong_setting_is_one_line(cli: Command) -> None:
    wrong = ["--table", "nodot", "--http", "x", "--rethinkdb", "http://u:secret@h"]
    done = cli("run", "--log-format", "console", *wrong)

    assert done.status == 2
    lines = done.err.splitlines()
    assert [line.partition(" (flag")[0].partition(" =")[0] for line in lines[:-1]] == [
        "error: rethinkdb.url",
        "error: http.listen",
        "error: tables[0].name",
    ]
    assert lines[-1].startswith("hint: ")
    assert "secret" not in done.err


def test_run_needs_a_table(cli: Command) -> None:
    done = cli("run", "--log-format", "console")

    assert done.status == 2
    assert done.err == "error: no table to replicate is named\nhint: use --table DB.TABLE\n"


def test_a_settings_file_that_cannot_be_read_is_said(tmp_path: Path, cli: Command) -> None:
    done = cli("status", "--config", str(tmp_path / "none.toml"))

    assert done.status == 2
    assert "none.toml: cannot be read: No such file" in done.err


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_missing_outbox_is_said_and_not_made(
    command: list[str], tmp_path: Path, cli: Command
) -> None:
    done = cli(*command, "--outbox", f"sqlite:///{tmp_path / 'x.db'}")

    assert done.status == 2
    assert done.err.startswith(f"error: there is no outbox at {tmp_path / 'x.db'}\nhint: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_file_that_is_no_database_is_refused(
    command: list[str], tmp_path: Path, cli: Command
) -> None:
    path = tmp_path / "x.db"
    path.write_text("this is a text, and it is longer than the header of a database" * 9)

    done = cli(*command, "--outbox", f"sqlite:///{path}")

    assert done.status == 2
    assert "not a database" in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_another_program_s_database_is_refused_and_left_alone(
    command: list[str], tmp_path: Path, cli: Command
) -> None:
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()

    done = cli(*command, "--outbox", f"sqlite:///{path}")

    assert done.status == 2
    assert "is not an outbox" in done.err
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_newer_schema_is_refused(command: list[str], tmp_path: Path, cli: Command) -> None:
    with outbox(tmp_path) as box, box.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    done = cli(*command, "--outbox", f"sqlite:///{tmp_path / 'outbox.db'}")

    assert done.status == 2
    assert "schema 9999, written by a newer replicator" in done.err


@pytest.mark.parametrize("command", READERS[:-1], ids=" ".join)
def test_a_database_without_schema_is_to_be_migrated(
    command: list[str], tmp_path: Path, cli: Command
) -> None:
    (tmp_path / "x.db").touch()

    done = cli(*command, "--outbox", f"sqlite:///{tmp_path / 'x.db'}")

    assert done.status == 2
    assert "hint: run `replicator migrate`" in done.err


def completed(command: str, monkeypatch: pytest.MonkeyPatch, cli: Command) -> list[str]:
    """Return what a shell is told to complete a line with, whose last word is begun."""
    monkeypatch.setenv("_REPLICATOR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", command)
    monkeypatch.setenv("COMP_CWORD", str(len(command.split(" ")) - 1))
    done = cli()
    assert done.err == ""
    return done.out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("replicator outbox red", ["redrive"]),
        ("replicator outbox redrive ", ["2"]),
        ("replicator outbox park ", ["1", "3"]),
        ("replicator outbox show ", ["1", "2", "3"]),
        ("replicator outbox list --table d", ["db.t"]),
        ("replicator feed resync ", ["db.t"]),
        ("replicator feed resync x", []),
    ],
)
def test_a_shell_completes_commands_tables_and_entries(
    line: str, expected: list[str], tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    with outbox(tmp_path) as box:
        documents = [initial({"id": n}) for n in range(3)]
        box.step(box.opened(), box.batch(*documents), box.ready())
        box.step(outcomes=[Outcomes(parked=[Failure(2, "refused", "no")])])

    assert completed(line, monkeypatch, cli) == expected


def test_a_shell_is_told_nothing_where_there_is_no_outbox(
    tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'none.db'}")

    assert completed("replicator feed resync ", monkeypatch, cli) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(
    shell: str, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_REPLICATOR_COMPLETE", f"source_{shell}")

    done = cli()

    assert done.status == 0
    assert "_REPLICATOR_COMPLETE=complete_" in done.out
