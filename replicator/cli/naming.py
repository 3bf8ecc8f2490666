"""How the command line names entries and tables, and completes them in a shell."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
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

_NUMBER: Final = re.compile(r"[0-9]{1,18}")  # no outbox gets that far
_MAX_OFFERED: Final = 1000

NO_ENTRIES: Final = "no such entries in this outbox: they were confirmed, or never captured"


def entry_numbers(database: Database, names: Sequence[str]) -> list[int]:
    """Return the numbers of entries that are named by number or by message id.

    Raises:
        EntryUnknown: A message id is from another outbox.
        typer.BadParameter: A name is neither.
        see `Database.reading` for the rest.
    """
    with database.reading() as connection:
        ours = listing.outbox_id(connection)
    return [_entry_number(name, ours) for name in names]


def _entry_number(name: str, ours: str | None) -> int:
    identity, _, digits = name.rpartition("-")
    if identity and identity != ours:
        raise EntryUnknown(
            f"the message {name} is from another outbox", hint="name that outbox with --outbox"
        )
    if not _NUMBER.fullmatch(digits):
        raise typer.BadParameter(f"{name!r} is neither an entry's number nor a message id")
    return int(digits)


def ask(question: str) -> None:
    """Ask a question and exit with status 1 unless the answer is yes.

    Raises:
        typer.BadParameter: Standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to ask at: use --yes, or --dry-run to look")
    if not typer.confirm(question, err=True):
        output.note("nothing was changed")
        raise typer.Exit(1)


# Completion: nothing after an error, which a shell could not show.

_Complete = Callable[[typer.Context], list[str]]


def _completer(find: Callable[[Any], Iterable[object]]) -> _Complete:
    """Return what offers words from an outbox's connection; typer leaves out those that differ."""

    def complete(ctx: typer.Context) -> list[str]:
        flags = {"outbox.url": ctx.params.get("outbox")}
        try:
            settings = load_settings(ctx.params.get("config"), flags, require_tables=False)
            with open_database(settings.outbox.url).reading() as connection:
                return [str(each) for each in find(connection)]
        except ReplicatorError:
            return []

    return complete


def _entries_of(state: str | None) -> _Complete:
    """Return what completes the number of an entry, among the oldest."""
    selection = Selection(state)
    return _completer(
        lambda connection: [
            row.id for row in listing.list_entries(connection, selection, limit=_MAX_OFFERED)
        ]
    )


_complete_table: Final = _completer(
    lambda connection: [feed.name for feed in listing.list_feeds(connection)]
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
    typer.Option(
        "--key", metavar="KEY", help="Only the document with this primary key, as text or JSON."
    ),
]
After = Annotated[str, typer.Option("--after", metavar="ID", help="Show entries after ID.")]


def entries(metavar: str, state: str | None = None) -> Any:
    """Return the argument that names entries, best those in this state."""
    help_text = "An entry's number, or a message id."
    return typer.Argument(metavar=metavar, help=help_text, autocompletion=_entries_of(state))
