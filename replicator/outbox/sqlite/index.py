"""The document index: for every document of a replicated table, what was last put into the outbox.

It changes only in the transaction that appends the entries which it describes. That is what
makes a resync exact: a crash leaves both as they were or both changed.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects import sqlite

from replicator.domain.model import Known
from replicator.domain.reconcile import DELETED, Plan
from replicator.domain.seen_rows import SeenRows
from replicator.outbox.records import MOST, damaged, sound, sound_key
from replicator.outbox.schema import documents
from replicator.outbox.sqlite import statements

_DIALECT: Final = sqlite.dialect()

# One statement for any number of keys: the list goes in as one JSON value, so the statement is
# parsed once, and SQLite's limit on parameters does not matter. CROSS JOIN keeps the planner
# from scanning the index and searching the list.
_LOOKUP: Final = (
    "SELECT d.key, d.id, d.digest, {document} FROM json_each(?) AS k "
    "CROSS JOIN documents AS d WHERE d.feed_id = ? AND d.key = k.value"
)
_LOOKUP_DIGEST: Final = _LOOKUP.format(document="NULL")
_LOOKUP_DOCUMENT: Final = _LOOKUP.format(document="d.document")
# A snapshot comes nearly in the order of the keys: of 3,000 documents that came together, nine of
# ten lie side by side in the index, and to read along it takes half as long as to search for each.
_RANGE: Final = (
    "SELECT key, id, digest, NULL FROM documents WHERE feed_id = ? AND key BETWEEN ? AND ?"
)
# Whether the key so many behind the first is behind the last; reads nothing but the index of keys.
_AHEAD: Final = (
    "SELECT key > ? FROM documents WHERE feed_id = ? AND key >= ? ORDER BY key LIMIT 1 OFFSET ?"
)
_MOST_READ_ALONG: Final = 2  # rows read for each that is wanted
_NEXT_PAGE: Final = (
    "SELECT key FROM documents WHERE feed_id = ? AND key >= ? ORDER BY key LIMIT 1 OFFSET ?"
)
# As one value: to step over each of them takes twice as long.
_IDS: Final = "SELECT json_group_array(id) FROM documents WHERE feed_id = ? AND key >= ?"
_IDS_OF_PAGE: Final = f"{_IDS} AND key < ?"
_ROWS_OF_IDS: Final = (
    "SELECT {columns} FROM documents WHERE id IN (SELECT value FROM json_each(?)) ORDER BY key"
)
# Reads no document: how long one is stands at the beginning of its row.
_SIZES_OF_IDS: Final = _ROWS_OF_IDS.format(columns="id, key, ifnull(length(document), 0)")
_decode_ids: Final = msgspec.json.Decoder(list[int]).decode

_COLUMNS: Final = (
    documents.c.id,
    documents.c.feed_id,
    documents.c.key,
    documents.c.digest,
    documents.c.document,
)
# Never the other way round: an id that is in use already must not be taken for a new row's.
_INSERT: Final = statements.Insertion(*_COLUMNS)
_UPDATE: Final = statements.Insertion(*_COLUMNS, overwritten=("digest", "document"))
_DELETE: Final = "DELETE FROM documents WHERE id IN (SELECT value FROM json_each(?))"
_MARK: Final = (
    "UPDATE documents SET digest = ?, document = NULL WHERE id IN (SELECT value FROM json_each(?))"
)


class _Kept(NamedTuple):
    """What is kept of a document; see `lookup`."""

    id: int
    document: bytes | None


class _Row(NamedTuple):
    """A row that was not seen; see `unseen`."""

    key: str
    id: int
    document: bytes | None
    digest: bytes


class Page(NamedTuple):
    """A part of the index; see `unseen`."""

    rows: Mapping[str, Known]  # those that were not seen, by key
    next_start: str | None  # the first key behind it; None when there is none


def lookup(
    connection: Connection,
    feed_id: int,
    keys: Sequence[str],
    *,
    with_documents: bool,
    is_in_order: bool = False,
) -> dict[str, Known]:
    """Return the rows of those keys that the index has, and perhaps rows of keys between them.

    Args:
        connection: the transaction.
        feed_id: of which feed.
        keys: which.
        with_documents: also the documents that are kept.
        is_in_order: whether the keys may well be neighbours, as those of a snapshot are.

    Raises:
        OutboxUnusable: a kept document is none.
    """
    # Not with documents: those between, which nobody wants, may be large.
    may_read_along = is_in_order and keys and not with_documents
    if may_read_along and _are_neighbours(connection, feed_id, keys):
        rows = statements.run(connection, _RANGE, (feed_id, min(keys), max(keys)))
    else:
        statement = _LOOKUP_DOCUMENT if with_documents else _LOOKUP_DIGEST
        # Sorted, neighbours in the index are read one after the other.
        wanted = msgspec.json.encode(sorted(keys)).decode()
        rows = statements.run(connection, statement, (wanted, feed_id))
    found = {key: Known(row_id, digest, kept) for key, row_id, digest, kept in rows}
    # A digest that is damaged equals none: the document is published once more.
    if with_documents:
        sound(((row.row_id, row.document) for row in found.values()), _Kept, documents.name)
    return found


def _are_neighbours(connection: Connection, feed_id: int, keys: Sequence[str]) -> bool:
    """Whether the index has few other keys between the first and the last of these.

    Texts in the order of SQLite: numbers are not in the order of a snapshot then.
    """
    values = (max(keys), feed_id, min(keys), _MOST_READ_ALONG * len(keys))
    is_behind_the_last = statements.run(connection, _AHEAD, values).fetchone()
    return is_behind_the_last is None or bool(is_behind_the_last[0])


def apply(connection: Connection, feed_id: int, plan: Plan) -> None:
    """Change the index as a plan says; in the transaction that appends the plan's entries."""
    remove(connection, plan.deleted)
    for statement, rows in ((_INSERT, plan.inserted), (_UPDATE, plan.updated)):
        if rows:
            statement.run(
                connection,
                [(row.row_id, feed_id, key, row.digest, row.document) for key, row in rows.items()],
            )


def remove(connection: Connection, row_ids: Sequence[int]) -> None:
    """Delete rows by their ids; safe to repeat."""
    if row_ids:
        statements.run(connection, _DELETE, (msgspec.json.encode(row_ids).decode(),))


def mark_deleted(connection: Connection, row_ids: Sequence[int]) -> None:
    """Note that documents were deleted, until `forget_deleted`; safe to repeat."""
    if row_ids:
        statements.run(connection, _MARK, (DELETED, msgspec.json.encode(row_ids).decode()))


def forget_documents(connection: Connection, feed_id: int) -> None:
    """Drop the documents that were kept, but not their rows: they may have other fields now."""
    connection.execute(
        update(documents).where(documents.c.feed_id == feed_id).values(document=None)
    )


def forget_deleted(connection: Connection, feed_id: int) -> None:
    """Drop the rows that only say that a document was deleted; looks at all rows of the feed."""
    connection.execute(
        delete(documents).where(documents.c.feed_id == feed_id, documents.c.digest == DELETED)
    )


def unseen(
    connection: Connection,
    feed_id: int,
    seen: SeenRows,
    *,
    start: str,
    most: int,
    most_bytes: int,
    with_values: bool,
) -> Page:
    """Look at the next rows of a feed, in the order of their keys, for those that were not seen.

    Args:
        connection: the transaction.
        feed_id: of which feed.
        seen: the rows that were.
        start: the first key to look at; the empty text is before all of them.
        most: how many rows to look at.
        most_bytes: with values, stop before the document that goes over this; one always comes.
        with_values: also digests and the documents that are kept; else digests are empty.

    Raises:
        OutboxUnusable: a row is none that was written here.
    """
    end = statements.run(connection, _NEXT_PAGE, (feed_id, start, most)).fetchone()
    # Nearly all were seen: of those, only the ids are read, from the index of keys.
    if end is None:
        (ids,) = statements.run(connection, _IDS, (feed_id, start)).fetchone()
    else:
        (ids,) = statements.run(connection, _IDS_OF_PAGE, (feed_id, start, *end)).fetchone()
    missing = seen.missing(_decode_ids(ids))
    next_start = None if end is None else end[0]
    if missing and with_values:
        missing, cut_before = _fitting(connection, missing, most_bytes)
        next_start = next_start if cut_before is None else cut_before
    rows: dict[str, Known] = {}
    if missing:
        columns = "key, id, document, digest" if with_values else "key, id, NULL, x''"
        wanted = msgspec.json.encode(missing).decode()
        read = statements.run(connection, _ROWS_OF_IDS.format(columns=columns), (wanted,))
        rows = {
            sound_key(row.key, documents.name): Known(row.id, row.digest, row.document)
            for row in sound(read, _Row, documents.name)
        }
    return Page(rows, next_start)


def _fitting(
    connection: Connection, row_ids: list[int], most_bytes: int
) -> tuple[list[int], str | None]:
    """Return the first of these rows whose documents fit, and the key of the next one."""
    fitting: list[int] = []
    size = 0
    sizes = statements.run(connection, _SIZES_OF_IDS, (msgspec.json.encode(row_ids).decode(),))
    for row_id, key, length in sizes:
        size += length
        if fitting and size > most_bytes:
            return fitting, sound_key(key, documents.name)
        fitting.append(row_id)
    return fitting, None


def count(connection: Connection, feed_id: int) -> int:
    """Return how many documents of a feed the index has."""
    return int(
        connection.execute(
            select(func.count()).select_from(documents).where(documents.c.feed_id == feed_id)
        ).scalar_one()
    )


def next_row_id(connection: Connection) -> int:
    """Return the first row id above all that are in use.

    Raises:
        OutboxUnusable: there is none left, since a row id was not given out here.
    """
    highest = connection.execute(select(func.max(documents.c.id))).scalar() or 0
    if not isinstance(highest, int) or highest > MOST:
        raise damaged(documents.name, f"row {highest!r}: it is too high")
    return max(0, highest) + 1
