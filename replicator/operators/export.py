"""Entries with their bodies, for `outbox export`: in short steps, bounded in memory."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, select

from replicator.domain.model import Entry
from replicator.operators.listing import (
    ENTRY_COLUMNS,
    MOST_NUMBER,
    EntryRow,
    Selection,
    StoredEntry,
    conditions_of,
    entry_row,
    outbox_id,
    ranges,
)
from replicator.outbox import feeds
from replicator.outbox.records import sound
from replicator.outbox.schema import PARKED, entries

_STEP_BYTES: Final = 8 * 1024 * 1024


class Exported(NamedTuple):
    """An entry as the commands show it, and as the publisher takes it."""

    row: EntryRow
    entry: Entry


def export_entries(
    connection: Connection, selection: Selection, *, after: int = 0, limit: int | None = None
) -> Iterator[Exported]:
    """Return entries with a number above ``after``, oldest first.

    Each step is a transaction of its own, and over before its entries are returned: whoever
    writes them to a slow place keeps no lock.

    Raises:
        TableUnusable: the outbox has no feed of the selected table.
        OutboxUnusable: a row is none that was written here.
    """
    names, identity = feeds.names(connection), outbox_id(connection) or ""
    conditions = conditions_of(selection, names)
    left = MOST_NUMBER if limit is None else limit
    after = min(after, MOST_NUMBER)
    for low, high in ranges(connection, after, is_parked=selection.state == PARKED):
        query = select(*ENTRY_COLUMNS, entries.c.body).where(*conditions).order_by(entries.c.id)
        if high is not None:
            query = query.where(entries.c.id <= high)
        last: int | None = low
        while last is not None and left > 0:
            rows, last = _step(connection, query.where(entries.c.id > last).limit(left))
            left -= len(rows)
            for row in rows:
                entry = Entry(
                    row.id, row.feed_id, row.key, row.op, row.origin, row.body, row.captured_at
                )
                yield Exported(entry_row(row, names, identity), entry)


def _step(connection: Connection, query: Select[Any]) -> tuple[list[StoredEntry], int | None]:
    """Return rows up to so many bytes, and the last number if there may be more."""
    found: list[tuple[Any, ...]] = []
    size = 0
    is_cut = False
    with connection.execute(query) as rows:
        for row in rows:
            found.append(tuple(row))
            size += len(row.body) if isinstance(row.body, bytes) else 0
            if is_cut := size >= _STEP_BYTES:
                break
    stored = sound(found, StoredEntry, entries.name)
    return stored, stored[-1].id if is_cut else None
