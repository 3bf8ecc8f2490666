"""How entries and tables are named on the command line, and what a shell may complete."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from replicator.cli import output
from replicator.config import load_settings
from replicator.errors import EntryUnknown, ReplicatorError
from replicator.operators import listing
from replicator.operators.listing import Selection
from replicator.outbox.opening import open_database
from replicator.outbox.port import Database

_MAX_NUMBER: Final = 2**63 - 1
_MAX_DIGITS: Final = 19
_MAX_OFFERED: Final = 50


def entry_numbers(database: Database, names: Sequence[str]) -> list[int]:
    """Return the numbers of entries that are named by number or by message id.

    Raises:
        EntryUnknown: a message id is of another outbox.
        typer.BadParameter: it is neither.
        see `Database.reading` for the rest.
    """
    with database.reading() as connection:
        ours = listing.outbox_id(connection)
    return [_entry_number(name, ours) for name in names]


def _entry_number(name: str, ours: str | None) -> int:
    identity, _, digits = name.rpartition("-")
    if identity and identity != ours:
        raise EntryUnknown(
            f"the message {name} is from another outbox", hint="name the outbox with --outbox"
        )
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS
    if not is_number or int(digits) > _MAX_NUMBER:
        raise typer.BadParameter(f"{name!r} is not the number of an entry")
    return int(digits)


def ask(question: str) -> None:
    """Ask for a yes, and end with status 1 when it is a no.

    Raises:
        typer.BadParameter: there is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: give --yes, or look with --dry-run")
    if not typer.confirm(question, err=True):
        output.note("nothing was changed")
        raise typer.Exit(1)


# Completion. A shell shows no error: where there is one, there is nothing to complete.

_Complete = Callable[[typer.Context, str], list[str]]


def _completer(find: Callable[[Any], Iterator[object]]) -> _Complete:
    """Return what completes a word with what an outbox has, from its connection."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        flags = {"outbox.url": ctx.params.get("outbox")}
        try:
            settings = load_settings(ctx.params.get("config"), flags, require_tables=False)
            with open_database(settings.outbox.url).reading() as connection:
                found = [str(each) for each in find(connection)]
        except ReplicatorError:
            return []
        matching = (each for each in found if each.startswith(incomplete))
        return list(itertools.islice(matching, _MAX_OFFERED))

    return complete


def _entries_of(state: str | None) -> _Complete:
    """Return what completes the number of one of the oldest entries."""
    return _completer(
        lambda connection: (
            row.id
            for row in listing.list_entries(connection, Selection(state), limit=_MAX_OFFERED * 20)
        )
    )


_complete_table: Final = _completer(
    lambda connection: (feed.name for feed in listing.list_feeds(connection))
)


# Arguments and options.


class State(StrEnum):
    """The states of an entry."""

    PENDING = "pending"
    PARKED = "parked"


Table = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="DATABASE.TABLE", autocompletion=_complete_table),
]
OfTable = Annotated[
    str | None,
    typer.Option(
        "--table", metavar="DB.TABLE", help="Only this table.", autocompletion=_complete_table
    ),
]
OfState = Annotated[State | None, typer.Option("--state", help="Only this state.")]
OfKey = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="Only this document: its primary key."),
]
After = Annotated[str, typer.Option("--after", metavar="ID", help="Show entries after ID.")]


def entries(metavar: str, state: str | None = None) -> Any:
    """Return the argument that names entries, best those in this state."""
    help_text = "An entry's number, or a message id."
    return typer.Argument(metavar=metavar, help=help_text, autocompletion=_entries_of(state))
