"""Reads entries with their bodies for `outbox export`: in short steps, bounded in memory."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from replicator.operators.listing import EntryRow, Selection, find_bodies, list_entries

_STEP_BYTES: Final = 8 * 1024 * 1024
_STEP_ENTRIES: Final = 1000


def export_entries(
    connection: Connection, selection: Selection, *, after: int = 0, limit: int | None = None
) -> Iterator[tuple[EntryRow, bytes]]:
    """Return entries with a number above ``after``, and their bodies, oldest first.

    No transaction is open while the caller writes an entry to a slow place. An entry that is
    confirmed meanwhile is left out.

    Raises:
        TableUnusable: the outbox has no feed of the selected table.
        OutboxUnusable: a row is not one that an outbox writes.
    """
    step: list[EntryRow] = []
    size = 0
    for row in list_entries(connection, selection, after=after, limit=limit):
        step.append(row)
        size += row.bytes
        if size >= _STEP_BYTES or len(step) >= _STEP_ENTRIES:
            yield from _with_bodies(connection, step)
            step, size = [], 0
    yield from _with_bodies(connection, step)


def _with_bodies(connection: Connection, rows: list[EntryRow]) -> Iterator[tuple[EntryRow, bytes]]:
    bodies = find_bodies(connection, [row.id for row in rows])
    for row in rows:
        if row.id in bodies:
            yield row, bodies[row.id]
