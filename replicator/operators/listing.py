"""What the commands read of an outbox, while the service runs and when it does not.

Every statement is a transaction of its own, and all entries are read in short steps: a long reader
would keep SQLite's write-ahead log from being reset, and it would grow. So a list does not show
one instant: entries may be confirmed while it is read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select, text

from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedState
from replicator.domain.given_key import key_texts
from replicator.domain.model import Cause, Count, Instant, Op, Origin
from replicator.domain.properties import message_id
from replicator.domain.reconcile import TableRules
from replicator.errors import EntryUnknown, TableUnusable
from replicator.outbox.feeds import open_gap, read_row
from replicator.outbox.port import Totals
from replicator.outbox.records import OutboxId, sound, sound_key
from replicator.outbox.schema import PARKED, PENDING, entries, feeds, gaps, meta

_STEP_ENTRIES: Final = 5000
_MAX_NAMED: Final = 5
# As text: SQLite uses a partial index only for the very words it was made with.
_IS_PARKED: Final = text(f"entries.state = '{PARKED}'")
_TABLE: Final = feeds.c.database_name + "." + feeds.c.table_name


class EntryRow(NamedTuple):
    """An entry without its body; instants in microseconds since the epoch."""

    id: Count
    feed_id: int
    key: str  # the primary key as JSON text
    op: Op
    origin: Origin
    state: Literal["pending", "parked"]
    captured_at: Instant
    attempts: Count
    reason: str | None
    last_error: str | None
    bytes: Count
    table: str  # database.table
    outbox_id: OutboxId

    @property
    def message_id(self) -> str:
        """The id of its message."""
        return message_id(self.outbox_id, self.id)


# A missing feed or identity becomes a null, which is an error in a row.
_ENTRIES: Final = select(
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
    _TABLE,
    select(meta.c.outbox_id).scalar_subquery(),
).outerjoin_from(entries, feeds)


class Selection(NamedTuple):
    """Which entries; None selects all."""

    state: str | None = None
    table: str | None = None
    key: str | None = None  # as text or as JSON (`replicator.domain.given_key`)


class Group(NamedTuple):
    """The entries of one table in one state."""

    table: str
    state: Literal["pending", "parked"]
    entries: Count
    bytes: Count
    oldest_captured_at: Instant

    def plus(self, part: "Group") -> "Group":
        """Return this group with more entries of the same table and state."""
        return self._replace(
            entries=self.entries + part.entries,
            bytes=self.bytes + part.bytes,
            oldest_captured_at=min(self.oldest_captured_at, part.oldest_captured_at),
        )


class GapRow(NamedTuple):
    """A time in which versions of documents may have been missed, and its repair."""

    id: int
    feed_id: int
    cause: Cause
    opened_at: Instant
    closed_at: Instant | None  # None: not repaired yet
    created: Count
    updated: Count
    deleted: Count
    skipped: Count  # changes that RethinkDB said it dropped
    table: str  # database.table


class _Id(NamedTuple):
    outbox_id: OutboxId


class _Body(NamedTuple):
    id: int
    body: bytes


def outbox_id(connection: Connection) -> str | None:
    """Return the short id in front of message ids; None before the first start."""
    rows = connection.execute(select(meta.c.outbox_id).limit(1))
    found = sound(map(tuple, rows), _Id, meta.name)
    return found[0].outbox_id if found else None


def feed_id(connection: Connection, table: str) -> int:
    """Return the number of a table's feed.

    Raises:
        TableUnusable: the outbox has no feed of this table.
    """
    database, _, name = table.partition(".")
    found: int | None = connection.execute(
        select(feeds.c.id).where(feeds.c.database_name == database, feeds.c.table_name == name)
    ).scalar()
    if found is None:
        raise TableUnusable(
            f"this outbox has no feed of the table {table}",
            hint="`replicator feed list` names those that it has",
        )
    return found


def list_entries(
    connection: Connection, selection: Selection, *, after: int = 0, limit: int | None = None
) -> Iterator[EntryRow]:
    """Return entries with a number above ``after``, oldest first.

    Raises:
        TableUnusable: the outbox has no feed of the selected table.
    """
    conditions = conditions_of(connection, selection)
    for within in _ranges(connection, after, is_parked=selection.state == PARKED):
        found = find_entries(connection, *within, *conditions, limit=limit)
        yield from found
        if limit is not None:
            limit -= len(found)
            if limit <= 0:
                return


def conditions_of(connection: Connection, selection: Selection) -> list[Any]:
    """Return what the entries of a selection must be.

    Raises:
        TableUnusable: the outbox has no feed of the selected table.
    """
    conditions: list[Any] = []
    if selection.state == PARKED:
        conditions.append(_IS_PARKED)
    elif selection.state is not None:
        conditions.append(entries.c.state == str(selection.state))
    if selection.table is not None:
        conditions.append(entries.c.feed_id == feed_id(connection, selection.table))
    if selection.key is not None:
        conditions.append(entries.c.key.in_(key_texts(selection.key)))
    return conditions


def _ranges(
    connection: Connection, after: int, *, is_parked: bool = False
) -> Iterator[list[ColumnElement[bool]]]:
    """Cut the entries into ranges of numbers, each small enough to be read in one short step."""
    low = after
    while True:
        bound = select(entries.c.id).where(entries.c.id > low)
        if is_parked:
            bound = bound.where(_IS_PARKED)
        high = connection.execute(
            bound.order_by(entries.c.id).offset(_STEP_ENTRIES - 1).limit(1)
        ).scalar()
        if high is None:
            yield [entries.c.id > low]
            return
        yield [entries.c.id > low, entries.c.id <= high]
        low = high


def find_entries(
    connection: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[EntryRow]:
    """Return the entries for which all conditions hold, oldest first.

    Raises:
        OutboxUnusable: a row is not one that an outbox writes.
    """
    query = _ENTRIES.where(*conditions).order_by(entries.c.id).limit(limit)
    found = sound(map(tuple, connection.execute(query)), EntryRow, entries.name)
    for row in found:
        sound_key(row.key, entries.name)
    return found


def find_bodies(connection: Connection, numbers: Sequence[int]) -> dict[int, bytes]:
    """Return the bodies of those entries that are there; raises what `find_entries` does."""
    query = select(entries.c.id, entries.c.body).where(entries.c.id.in_(numbers))
    found = sound(map(tuple, connection.execute(query)), _Body, entries.name)
    return {row.id: row.body for row in found}


def show_entry(connection: Connection, number: int) -> tuple[EntryRow, bytes]:
    """Return one entry and its body.

    Raises:
        EntryUnknown: it is not in the outbox, or not any more.
    """
    found = find_entries(connection, entries.c.id == number)
    bodies = find_bodies(connection, [number])
    if not found or not bodies:
        raise unknown([number])
    return found[0], bodies[number]


def unknown(numbers: Sequence[int], so: str = "") -> EntryUnknown:
    """Return the error for numbers that no entry has; ``so`` ends its text."""
    more = f" and {len(numbers) - _MAX_NAMED} more" if len(numbers) > _MAX_NAMED else ""
    named = ", ".join(map(str, numbers[:_MAX_NAMED])) + more
    return EntryUnknown(
        f"there is no entry {named} in this outbox{so}",
        hint="RabbitMQ's confirm removes an entry; `replicator outbox list` shows those that are "
        "left",
    )


def stats(connection: Connection) -> list[Group]:
    """Count the entries by table and state; reads all of them, in short steps."""
    query = (
        select(
            _TABLE,
            entries.c.state,
            func.count(),
            func.sum(func.length(entries.c.body)),
            func.min(entries.c.captured_at),
        )
        .outerjoin_from(entries, feeds)
        .group_by(entries.c.feed_id, entries.c.state)
    )
    sums: dict[tuple[str, str], Group] = {}
    for within in _ranges(connection, 0):
        rows = connection.execute(query.where(*within))
        for part in sound(map(tuple, rows), Group, entries.name):
            before = sums.get(part[:2])
            sums[part[:2]] = part if before is None else before.plus(part)
    return sorted(sums.values())


def count_totals(connection: Connection) -> Totals:
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
    """Return where every feed stood when the service last saved it."""
    query = select(feeds).order_by(feeds.c.database_name, feeds.c.table_name)
    rows = connection.execute(query).mappings().all()
    return [_feed(connection, row) for row in rows]


def _feed(connection: Connection, mapping: Any) -> Feed:
    row = read_row(mapping)
    since = {
        FeedState.READY: row.ready_at,
        FeedState.INITIALIZING: row.opened_at,
        FeedState.LOST: row.alive_at,
        FeedState.DROPPED: row.alive_at,
    }
    kept = row.kept()
    if kept["guard"] is not None:
        since[FeedState.GUARDED] = kept["guard"].at
    return Feed(
        id=row.id,
        name=row.name,
        rules=TableRules(primary_key=kept["indexed_key"] or "id"),
        is_baseline=False,
        projection=row.projection,
        state_since=since.get(row.state) or 0,
        gap=open_gap(connection, row.id),
        **kept,
    )


def list_gaps(connection: Connection, *, table: str | None, limit: int) -> list[GapRow]:
    """Return the newest gaps, the oldest of them first.

    Raises:
        TableUnusable: the outbox has no feed of this table.
    """
    query = select(gaps, _TABLE).outerjoin_from(gaps, feeds).order_by(gaps.c.id.desc())
    if table is not None:
        query = query.where(gaps.c.feed_id == feed_id(connection, table))
    rows = connection.execute(query.limit(limit))
    return sound(map(tuple, rows), GapRow, gaps.name)[::-1]
