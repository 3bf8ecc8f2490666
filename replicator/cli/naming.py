"""How entries and tables are named on the command line, and what a shell may complete."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from replicator.cli import output
from replicator.config import load_settings
from replicator.errors import EntryUnknown, ReplicatorError
from replicator.operators import listing as inspect
from replicator.operators.listing import Selection

_MOST_DIGITS: Final = 19
_MOST_OFFERED: Final = 50


def entry_numbers(url: str, names: Sequence[str]) -> list[int]:
    """Return the numbers of entries that are named by number or by message id.

    Raises:
        EntryUnknown: a message id is of another outbox.
        typer.BadParameter: it is neither.
        OutboxMissing, OutboxOutdated, OutboxTooNew, OutboxUnusable, OutboxUnavailable: as they say.
    """
    with inspect.reading(url) as connection:
        ours = inspect.outbox_id(connection)
    return [_entry_number(name, ours) for name in names]


def _entry_number(name: str, ours: str | None) -> int:
    identity, _, digits = name.rpartition("-")
    if identity and identity != ours:
        raise EntryUnknown(
            f"the message {name} is from another outbox", hint="name the outbox with --outbox"
        )
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    if not is_number or int(digits) >= 2**63:
        raise typer.BadParameter(f"{name!r} is not the number of an entry")
    return int(digits)


def _completed(context: Any, *, incomplete: str, what: str) -> Iterator[str]:
    """Return what the outbox has of it. A shell shows no error: there is nothing to complete."""
    flags = {"outbox.url": context.params.get("outbox")}
    try:
        settings = load_settings(context.params.get("config"), flags, require_tables=False)
        with inspect.reading(settings.outbox.url) as connection:
            if what == "table":
                found = [str(feed.name) for feed in inspect.list_feeds(connection)]
            else:
                rows = inspect.list_entries(
                    connection, Selection(what or None), limit=_MOST_OFFERED * 20
                )
                found = [str(row.id) for row in rows]
    except ReplicatorError:
        return iter(())
    matching = (each for each in found if each.startswith(incomplete))
    return itertools.islice(matching, _MOST_OFFERED)


def complete_table(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a table that the outbox has a feed of."""
    return list(_completed(ctx, incomplete=incomplete, what="table"))


def complete_entry(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the number of one of the oldest entries."""
    return list(_completed(ctx, incomplete=incomplete, what=""))


def complete_parked(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the number of one of the oldest parked entries."""
    return list(_completed(ctx, incomplete=incomplete, what="parked"))


def complete_pending(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the number of one of the oldest pending entries."""
    return list(_completed(ctx, incomplete=incomplete, what="pending"))


OfTable = Annotated[
    str | None,
    typer.Option(
        "--table", metavar="DB.TABLE", help="Only this table.", autocompletion=complete_table
    ),
]


class State(StrEnum):
    """The states of an entry."""

    PENDING = "pending"
    PARKED = "parked"


OfState = Annotated[State | None, typer.Option("--state", help="Only this state.")]


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


IsDry = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
