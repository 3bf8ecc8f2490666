"""What the commands read of an outbox, while the service runs and when it does not.

Every statement is a transaction of its own, and what goes over all entries goes in short steps:
a long reader would keep SQLite's write-ahead log from being reset, and it would grow. So a list
is no instant's picture: entries may be confirmed while it is read.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select, text

from replicator.domain.feed import Feed
from replicator.domain.feed_element import normal_key
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Cause, Op, Origin, TableName
from replicator.domain.properties import message_id
from replicator.domain.reconcile import TableRules
from replicator.errors import EntryUnknown, TableUnusable
from replicator.outbox import feeds
from replicator.outbox.migrations import require_current
from replicator.outbox.port import Totals
from replicator.outbox.records import Count, Instant, damaged, sound, sound_key
from replicator.outbox.schema import PARKED, PENDING, entries, meta
from replicator.outbox.schema import feeds as feeds_table
from replicator.outbox.schema import gaps as gaps_table
from replicator.outbox.sqlite.connection import database_path, open_reader, translated

_STEP_ENTRIES: Final = 5000
MOST_NUMBER: Final = 2**63 - 1  # of SQLite, and of PostgreSQL

ENTRY_COLUMNS: Final = (
    entries.c.id,
    entries.c.feed_id,
    entries.c.key,
    entries.c.op,
    entries.c.origin,
    entries.c.state,
    entries.c.captured_at,
    entries.c.attempts,
    entries.c.reason,
    entries.c.last_error,
    func.length(entries.c.body),
)


class _Identity(NamedTuple):
    """What message ids are made of."""

    outbox_id: Annotated[str, msgspec.Meta(pattern="^[a-z2-7]{8}$")]
    last_entry: Count


class EntryRow(NamedTuple):
    """An entry without its body; instants in microseconds since the epoch."""

    id: int
    message_id: str
    table: str
    op: str
    origin: str
    key: str  # the primary key as JSON text
    state: str
    captured_at: int
    attempts: int
    reason: str | None
    last_error: str | None
    bytes: int


class Selection(NamedTuple):
    """Which entries; None selects all."""

    state: str | None = None
    table: str | None = None
    key: str | None = None


class Group(NamedTuple):
    """The entries of one table in one state."""

    table: str
    state: str
    entries: int
    bytes: int
    oldest_captured_at: int


class GapRow(NamedTuple):
    """A time in which versions of documents may have been missed, and its repair."""

    id: int
    table: str
    cause: str
    opened_at: int
    closed_at: int | None  # None: not repaired yet
    created: int
    updated: int
    deleted: int
    skipped: int  # changes that RethinkDB said it dropped


class StoredEntry(NamedTuple):
    """A row of `ENTRY_COLUMNS`."""

    id: Count
    feed_id: int
    key: str
    op: Op
    origin: Origin
    state: Literal["pending", "parked"]
    captured_at: Instant
    attempts: Count
    reason: str | None
    last_error: str | None
    size: Count
    body: bytes = b""


class _StoredSum(NamedTuple):
    """A row of `stats`."""

    feed_id: int
    state: Literal["pending", "parked"]
    entries: Count
    size: Count
    oldest_captured_at: Instant


class _StoredGap(NamedTuple):
    """A row of the gaps, in the order of its columns."""

    id: int
    feed_id: int
    cause: Cause
    opened_at: Instant
    closed_at: Instant | None
    created: Count
    updated: Count
    deleted: Count
    skipped: Count


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Open an outbox to read.

    Raises:
        OutboxMissing, OutboxOutdated, OutboxTooNew, OutboxUnusable, OutboxUnavailable: clear
            about what to do.
    """
    with translated(database_path(url)), open_reader(url).connect() as connection:
        require_current(connection)
        yield connection


def outbox_id(connection: Connection) -> str | None:
    """Return the short id in front of message ids; None before the first start."""
    row = connection.execute(select(meta.c.outbox_id, meta.c.last_entry)).one_or_none()
    if row is None:
        return None
    (identity,) = sound([tuple(row)], _Identity, meta.name)
    return identity.outbox_id


def list_entries(
    connection: Connection, selection: Selection, *, after: int = 0, limit: int | None = None
) -> Iterator[EntryRow]:
    """Return entries with a number above ``after``, oldest first.

    Raises:
        TableUnusable: the outbox has no feed of the selected table.
    """
    names = feeds.names(connection)
    identity = outbox_id(connection) or ""
    conditions = conditions_of(selection, names)
    left = None if limit is None else min(limit, MOST_NUMBER)
    after = min(after, MOST_NUMBER)
    for low, high in ranges(connection, after, is_parked=selection.state == PARKED):
        query = select(*ENTRY_COLUMNS).where(entries.c.id > low, *conditions).order_by(entries.c.id)
        if high is not None:
            query = query.where(entries.c.id <= high)
        rows = connection.execute(query.limit(left)).all()
        for row in sound(map(tuple, rows), StoredEntry, entries.name):
            yield entry_row(row, names, identity)
        if left is not None:
            left -= len(rows)
            if left <= 0:
                return


def conditions_of(selection: Selection, names: dict[int, TableName]) -> list[ColumnElement[bool]]:
    """Return what the entries of a selection must be.

    Raises:
        TableUnusable: the outbox has no feed of the selected table.
    """
    conditions: list[ColumnElement[bool]] = []
    if selection.state == PARKED:
        # As text: SQLite takes the partial index only for the very words it was made with.
        conditions.append(text(f"entries.state = '{PARKED}'"))  # type: ignore[arg-type]
    elif selection.state is not None:
        conditions.append(entries.c.state == selection.state)
    if selection.table is not None:
        conditions.append(entries.c.feed_id == _feed_id(selection.table, names))
    if selection.key is not None:
        # A text is meant as it stands, or as the JSON that it is: abc, "abc" and 7 all work.
        as_text = json.dumps(selection.key, ensure_ascii=False)
        wanted = [normal_key(selection.key), as_text]
        # Half a surrogate pair stands in a key as its escape; a database takes no other form.
        escaped = [each.encode("utf-8", "backslashreplace").decode() for each in wanted]
        conditions.append(entries.c.key.in_(escaped))
    return conditions


def _feed_id(table: str, names: dict[int, TableName]) -> int:
    for feed_id, name in names.items():
        if str(name) == table:
            return feed_id
    raise TableUnusable(
        f"this outbox has no feed of the table {table}",
        hint="`replicator feed list` names those that it has",
    )


def ranges(
    connection: Connection, after: int, *, is_parked: bool = False
) -> Iterator[tuple[int, int | None]]:
    """Cut the entries into ranges of numbers, few enough in each to be read in one short step."""
    low = after
    while True:
        bound = select(entries.c.id).where(entries.c.id > low)
        if is_parked:
            bound = bound.where(text(f"entries.state = '{PARKED}'"))
        high = connection.execute(
            bound.order_by(entries.c.id).offset(_STEP_ENTRIES - 1).limit(1)
        ).scalar()
        yield low, high
        if high is None:
            return
        low = high


def entry_row(row: StoredEntry, names: dict[int, TableName], identity: str) -> EntryRow:
    """Return a row with the names in it that people know."""
    return EntryRow(
        row.id,
        message_id(identity, row.id),
        _name(row.feed_id, names, entries.name),
        row.op.value,
        row.origin.value,
        sound_key(row.key, entries.name),
        row.state,
        row.captured_at,
        row.attempts,
        row.reason,
        row.last_error,
        row.size,
    )


def _name(feed_id: int, names: dict[int, TableName], table: str) -> str:
    name = names.get(feed_id)
    if name is None:
        raise damaged(table, f"a row is of the feed {feed_id}, which is not there")
    return str(name)


def show_entry(connection: Connection, number: int) -> tuple[EntryRow, bytes]:
    """Return one entry and its body.

    Raises:
        EntryUnknown: it is not, or not any more, in the outbox.
    """
    row = connection.execute(
        select(*ENTRY_COLUMNS, entries.c.body).where(entries.c.id == number)
    ).one_or_none()
    if row is None:
        raise EntryUnknown(
            f"there is no entry {number} in this outbox",
            hint="an entry goes when RabbitMQ has confirmed it; `replicator outbox list` shows "
            "those that are left",
        )
    (found,) = sound([tuple(row)], StoredEntry, entries.name)
    entry = entry_row(found, feeds.names(connection), outbox_id(connection) or "")
    return entry, found.body


def stats(connection: Connection) -> list[Group]:
    """Count the entries by table and state; reads all of them, in short steps."""
    names = feeds.names(connection)
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
    for low, high in ranges(connection, 0):
        query = (
            select(
                entries.c.feed_id,
                entries.c.state,
                func.count(),
                func.sum(func.length(entries.c.body)),
                func.min(entries.c.captured_at),
            )
            .where(entries.c.id > low)
            .group_by(entries.c.feed_id, entries.c.state)
        )
        if high is not None:
            query = query.where(entries.c.id <= high)
        found = sound(map(tuple, connection.execute(query)), _StoredSum, entries.name)
        for feed_id, state, count, size, oldest in found:
            group = (_name(feed_id, names, entries.name), state)
            known = sums.get(group, (0, 0, oldest))
            sums[group] = (known[0] + count, known[1] + size, min(known[2], oldest))
    return [Group(*group, *sums[group]) for group in sorted(sums)]


def totals(connection: Connection) -> Totals:
    """Add up all entries, in short steps."""
    groups = stats(connection)
    pending = [group for group in groups if group.state == PENDING]
    return Totals(
        pending=sum(group.entries for group in pending),
        parked=sum(group.entries for group in groups if group.state == PARKED),
        bytes=sum(group.bytes for group in groups),
        oldest_captured_at=min((group.oldest_captured_at for group in pending), default=None),
    )


def list_feeds(connection: Connection) -> list[Feed]:
    """Return where every feed stood when the service last wrote it down."""
    rows = connection.execute(
        select(feeds_table).order_by(feeds_table.c.database_name, feeds_table.c.table_name)
    )
    return [_feed(connection, row) for row in rows.mappings().all()]


def _feed(connection: Connection, mapping: Any) -> Feed:
    row = feeds.read_row(mapping)
    since = {
        FeedState.READY: row.ready_at,
        FeedState.INITIALIZING: row.opened_at,
        FeedState.LOST: row.alive_at,
        FeedState.PAUSED: None,
        FeedState.DROPPED: row.alive_at,
    }
    kept = row.kept()
    return Feed(
        id=row.id,
        name=row.name,
        rules=TableRules(primary_key=kept["indexed_key"] or "id"),
        is_baseline=False,
        projection=row.projection,
        state_since=since[row.state] or 0,
        gap=feeds.open_gap(connection, row.id),
        **kept,
    )


def list_gaps(connection: Connection, *, table: str | None, limit: int) -> list[GapRow]:
    """Return the newest gaps, oldest of them first.

    Raises:
        TableUnusable: the outbox has no feed of this table.
    """
    names = feeds.names(connection)
    query = select(gaps_table).order_by(gaps_table.c.id.desc()).limit(min(limit, MOST_NUMBER))
    if table is not None:
        query = query.where(gaps_table.c.feed_id == _feed_id(table, names))
    rows = sound(map(tuple, connection.execute(query)), _StoredGap, gaps_table.name)
    found = [
        GapRow(row.id, _name(row.feed_id, names, gaps_table.name), row.cause.value, *row[3:])
        for row in rows
    ]
    return found[::-1]
