"""Every command that a page shows is one; what can do no harm is done, on an outbox of its own."""

import importlib.util
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from replicator.cli.main import app
from replicator.domain.guard import DeleteLimit
from replicator.domain.model import Failure, Outcomes, TableName
from tests.docs.pages import PROJECT, Code, all_code
from tests.support.command import Command, command_line
from tests.support.feed_elements import add
from tests.support.outbox import outbox, table

# typer has a copy of click of its own in some versions: this is the class that it raises.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ROOT = get_command(app)
_GROUPS = {name: group for name, group in _ROOT.commands.items() if hasattr(group, "commands")}
_ASKS = {"discard", "baseline", "accept-deletes"}
_SERVERS = {"run", "check", "listen", "demo"}
_MAKEFILE = (PROJECT / "Makefile").read_text()

_FIRST_ID = 1024  # as in the examples of the pages
_PLACEHOLDERS = {
    "ID": "1024",
    "TABLE": "shop.orders",
    "DB.TABLE": "shop.orders",
    "HOST:PORT": "127.0.0.1:9464",
    "KEY": '"a"',
    "N": "1",
    "FILE": str(PROJECT / "deploy/kubernetes/overlays/production/replicator.toml"),
}


def _shown(program: str) -> list[tuple[Code, str]]:
    """Return what the pages show of a program: where, and its arguments."""
    found = []
    for each in all_code():
        start = r"(?:^|&& |\| |-- )" if each.is_block else "^"
        for match in re.finditer(rf"{start}(?:\S+/)?{program} +(.*)", each.text):
            arguments = re.split(r"\s{2,}|[>#;|&](?![^[]*\])", match[1])[0].strip()
            found.append((each, arguments))
    return found


def _replicator() -> list[tuple[Code, str]]:
    """Return every command of the replicator, those named without the program included."""
    short = re.compile(rf"(?:{'|'.join(_GROUPS)}) [a-z]+( .*)?")
    named = [(each, each.text) for each in all_code() if short.fullmatch(each.text)]
    return [*_shown("replicator"), *named]


def _words(arguments: str) -> list[str]:
    """Return the arguments of a synopsis or an example as somebody would type them."""
    words = []
    for word in shlex.split(arguments):
        plain = word.removeprefix("[").removesuffix("]").removesuffix("…").partition("|")[0]
        if plain:
            words.append(_PLACEHOLDERS.get(plain, plain))
    return words


def _complaint(words: list[str], *, is_name: bool) -> str:
    """Return what the program's own parser says against a command, or nothing; nothing is run.

    The name of a command may stand without the arguments that the command needs.
    """
    command: Any = _ROOT
    rest = list(words)
    while hasattr(command, "commands") and rest:
        name = rest.pop(0)
        if name.startswith("-"):
            # Such as --version: it acts as soon as it is read, so it is not.
            flags = {flag for parameter in command.params for flag in parameter.opts}
            return "" if name in flags else f"there is no flag {name}"
        if name not in command.commands:
            return f"there is no command {name}"
        command = command.commands[name]
    try:
        command.make_context("replicator", rest)
    except typer.Exit:
        return ""  # --help
    except _UsageError as err:
        is_missing = type(err).__name__ in {"MissingParameter", "NoArgsIsHelpError"}
        return "" if is_missing and is_name else str(err.format_message())
    return ""


@pytest.mark.parametrize(("shown", "arguments"), _replicator(), ids=str)
def test_a_command_of_the_replicator_exists_with_its_flags(shown: Code, arguments: str) -> None:
    assert _complaint(_words(arguments), is_name=not shown.is_block) == ""


def test_the_pages_show_the_commands() -> None:
    """What is compared is not nothing."""
    in_blocks = [shown.text for shown, _ in _replicator() if shown.is_block]
    assert len(in_blocks) > 20
    assert "venv/bin/replicator listen --binding 'mytable.*'" in in_blocks


@pytest.mark.parametrize("arguments", ["outbox lst", "outbox list --stat parked", "outbox show"])
def test_a_wrong_command_would_be_seen(arguments: str) -> None:
    assert _complaint(_words(arguments), is_name=False) != ""


def _safe() -> list[tuple[Code, str]]:
    """Return the examples that need an outbox and nothing else, and come to an end."""
    return [
        (shown, arguments)
        for shown, arguments in _shown("replicator")
        if shown.is_block
        and arguments.split(maxsplit=1)[0] not in _SERVERS
        and not arguments.startswith("-")
        and ("--watch" not in arguments or "--count" in arguments)
    ]


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    """The command line over an outbox as in the examples.

    Entries from 1024, the first parked; deletes of their table are held back.
    """
    guarded = table(TableName("shop", "orders"))._replace(delete_limit=DeleteLimit(0))
    tables = [guarded, table(TableName("change_example", "mytable"))]
    with outbox(tmp_path, *tables) as made:
        for feed_id, _ in enumerate(tables, 1):
            made.step(made.opened(feed_id=feed_id), made.ready(feed_id))
        made.step(made.batch(add({"id": "a"}), add({"id": "b"}), add({"id": "c"})))
        made.step(outcomes=[Outcomes(parked=[Failure(1, "too_large", "it is too large")])])
        made.step(made.closed(), made.opened(), made.ready())
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute("UPDATE entries SET id = id + ?", [_FIRST_ID - 1])
        database.execute("UPDATE meta SET last_entry = last_entry + ?", [_FIRST_ID - 1])
    database.close()
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.mark.parametrize(("shown", "arguments"), _safe(), ids=str)
def test_an_example_does_what_it_says(shown: Code, arguments: str, cli: Command) -> None:
    words = _words(re.sub(r"--count \d+", "--count 1", arguments))
    if _ASKS & set(words) and not {"--yes", "--dry-run"} & set(words):
        words.append("--yes")

    done = cli(*words)

    assert done.status == 0, f"{shown}\n{done.err}"


@pytest.mark.parametrize(("shown", "arguments"), _shown("make"), ids=str)
def test_a_target_of_make_exists_with_its_variables(shown: Code, arguments: str) -> None:
    for word in shlex.split(arguments):
        name, is_variable, _ = word.partition("=")
        if is_variable:
            assert f"$({name})" in _MAKEFILE, f"{shown}: no variable {name}"
        elif name != "...":
            assert re.search(rf"^{name}:", _MAKEFILE, re.MULTILINE), f"{shown}: no target {name}"


@pytest.mark.parametrize(("shown", "arguments"), _shown("python3? -m"), ids=str)
def test_a_module_that_is_to_be_run_exists(shown: Code, arguments: str) -> None:
    assert importlib.util.find_spec(arguments.split(maxsplit=1)[0]), shown
