"""Look-ups in the document index, in the way that is fast on SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from replicator.domain.index import DELETED
from replicator.domain.model import Known
from replicator.outbox.port import Search, UnseenCount, UnseenPage
from replicator.outbox.records import sound, sound_key
from replicator.outbox.schema import documents
from replicator.outbox.sqlite import statements as sql

_MAX_READ_ALONG: Final = 2  # rows to read for each wanted one
_decode_ids: Final = msgspec.json.Decoder(list[int]).decode


class _Kept(NamedTuple):
    """What is kept of a document."""

    id: int
    document: bytes | None


class _Key(NamedTuple):
    """The key of a document."""

    key: str
    id: int


class _Row(NamedTuple):
    """A row that was not seen."""

    key: str
    id: int
    document: bytes | None
    digest: bytes


def as_json(values: Sequence[object]) -> str:
    """Return a list as the one value that a statement takes for it."""
    return msgspec.json.encode(values).decode()


def look_up(
    connection: sqlite3.Connection,
    feed_id: int,
    keys: Sequence[str],
    *,
    with_documents: bool,
    is_in_order: bool,
) -> dict[str, Known]:
    """Do `replicator.outbox.port.Outbox.look_up`."""
    # Never with documents: those in between, which are not wanted, may be large.
    may_read_along = is_in_order and keys and not with_documents
    if may_read_along and _are_neighbours(connection, feed_id, keys):
        # A snapshot comes nearly in the order of the keys: of 3,000 documents that came together,
        # nine of ten are neighbours in the index. Reading along it takes half as long as searching
        # for each.
        rows = connection.execute(sql.LOOK_UP_RANGE, (feed_id, min(keys), max(keys)))
    else:
        statement = sql.LOOK_UP_WITH_DOCUMENTS if with_documents else sql.LOOK_UP
        # Sorted, neighbours in the index are read one after the other.
        rows = connection.execute(statement, (as_json(sorted(keys)), feed_id))
    found = {key: Known(row_id, digest, kept) for key, row_id, digest, kept in rows}
    # A damaged digest equals no other: its document is published once more.
    if with_documents:
        sound(((row.row_id, row.document) for row in found.values()), _Kept, documents.name)
    return found


def _are_neighbours(connection: sqlite3.Connection, feed_id: int, keys: Sequence[str]) -> bool:
    """Return whether the index has few other keys between the first and the last of these.

    Keys are compared as texts, as SQLite does. Numbers in a snapshot come in another order.
    """
    values = (max(keys), feed_id, min(keys), _MAX_READ_ALONG * len(keys))
    is_after_last = connection.execute(sql.IS_AFTER_LAST, values).fetchone()
    return is_after_last is None or bool(is_after_last[0])


def unseen(connection: sqlite3.Connection, search: Search) -> UnseenPage:
    """Do `replicator.outbox.port.Outbox.unseen`."""
    ids, next_start = _page(connection, search)
    missing = search.seen.missing(ids)
    if missing and search.with_values:
        missing, cut_before = _fitting(connection, missing, search.max_bytes)
        next_start = next_start if cut_before is None else cut_before
    rows: dict[str, Known] = {}
    if missing:
        statement = sql.ROWS_OF_IDS if search.with_values else sql.KEYS_OF_IDS
        read = connection.execute(statement, (as_json(missing),))
        rows = {
            sound_key(row.key, documents.name): Known(row.id, row.digest, row.document)
            for row in sound(read, _Row, documents.name)
        }
    return UnseenPage(rows, next_start)


def count_unseen(connection: sqlite3.Connection, search: Search, first_new_row: int) -> UnseenCount:
    """Do `replicator.outbox.port.Outbox.count_unseen`."""
    ids, next_start = _page(connection, search)
    keys: list[str] = []
    if missing := search.seen.missing(ids):
        rows = connection.execute(sql.KEYS_NOT_DELETED, (as_json(missing), DELETED))
        keys = [sound_key(row.key, documents.name) for row in sound(rows, _Key, documents.name)]
    return UnseenCount(keys, sum(row_id < first_new_row for row_id in ids), next_start)


def _page(connection: sqlite3.Connection, search: Search) -> tuple[list[int], str | None]:
    """Return the ids of a part of the index, and the first key after it."""
    feed_id, start = search.feed_id, search.start
    end = connection.execute(sql.NEXT_PAGE, (feed_id, start, search.max_rows)).fetchone()
    # Nearly all were seen: only their ids are read, from SQLite's index of the keys.
    if end is None:
        (ids,) = connection.execute(sql.IDS, (feed_id, start)).fetchone()
        return _decode_ids(ids), None
    (ids,) = connection.execute(sql.IDS_OF_PAGE, (feed_id, start, *end)).fetchone()
    return _decode_ids(ids), end[0]


def _fitting(
    connection: sqlite3.Connection, row_ids: list[int], max_bytes: int
) -> tuple[list[int], str | None]:
    """Return as many of these rows as have room for their documents, and the key after them."""
    fitting: list[int] = []
    size = 0
    for row_id, key, length in connection.execute(sql.SIZES_OF_IDS, (as_json(row_ids),)):
        size += length
        if fitting and size > max_bytes:
            return fitting, sound_key(key, documents.name)
        fitting.append(row_id)
    return fitting, None
