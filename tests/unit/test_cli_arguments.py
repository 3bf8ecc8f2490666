"""Passwords on the command line: what is warned of, and what messages repeat."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command, command_line
from tests.support.outbox import outbox


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    for variable in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    # Nobody listens here: what needs a server fails at once, after the settings were read.
    monkeypatch.setenv("REPLICATOR_RETHINKDB__URL", "rethinkdb://127.0.0.1:1")
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", "amqp://127.0.0.1:1")
    with outbox(tmp_path), command_line(monkeypatch, capsys) as run:
        yield run


WARNING = "a password on the command line can be seen by other users of this host"


@pytest.mark.parametrize(
    ("flag", "url"),
    [
        ("--rethinkdb", "rethinkdb://admin:secret@127.0.0.1:1"),
        ("--rabbitmq", "amqp://u:secret@127.0.0.1:1/v"),
        ("--rabbitmq", "amqp://:secret@127.0.0.1:1"),
    ],
)
def test_a_password_in_an_argument_is_warned_of_and_not_repeated(
    flag: str, url: str, cli: Command
) -> None:
    done = cli("check", "--table", "db.t", flag, url)

    (said,) = [line for line in done.err.splitlines() if WARNING in line]
    assert flag in said
    assert "password_file" in said
    assert "secret" not in done.err
    assert "secret" not in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rethinkdb", "rethinkdb://admin@127.0.0.1:1"],
        ["--rabbitmq", "amqp://guest:guest@127.0.0.1:1"],  # RabbitMQ's own default
        ["--exchange", "a:b@c"],
        [],
    ],
)
def test_without_a_password_in_an_argument_nothing_is_warned_of(
    arguments: list[str], cli: Command
) -> None:
    assert WARNING not in cli("check", "--table", "db.t", *arguments).err


def test_a_password_from_the_environment_is_not_warned_of(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", "amqp://u:secret@127.0.0.1:1")

    done = cli("check", "--table", "db.t")

    assert WARNING not in done.err
    assert "secret" not in done.out + done.err


def test_wrong_usage_repeats_no_address(cli: Command) -> None:
    done = cli("status", "amqp://u:secret@h")

    assert done.status == 2
    assert "secret" not in done.err


@pytest.mark.parametrize(("command", "flag"), [("run", "--rethinkdb"), ("check", "--rabbitmq")])
def test_the_help_says_where_a_password_belongs(command: str, flag: str, cli: Command) -> None:
    words = " ".join(cli(command, "--help").out.replace("│", " ").split())

    assert flag in words
    assert "can be seen by other users: use password_file or the environment" in words


@pytest.mark.parametrize(
    ("binding", "said"), [("x\n", "'x\\n': must not have control"), ("x" * 256, "1 to 255 bytes")]
)
def test_a_binding_that_amqp_cannot_carry_is_refused(cli: Command, binding: str, said: str) -> None:
    done = cli("listen", "--binding", binding)

    assert done.status == 2
    assert "--binding" in done.err
    assert said in done.err
