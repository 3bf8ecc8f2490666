"""Rows of the feeds and their gaps: where each table stands, and where changes may be missing."""

import functools
import json
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import sqlite

from replicator.domain.feed import Gap
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Cause, TableName
from replicator.outbox.records import Count, Instant, sound
from replicator.outbox.schema import feeds, gaps
from replicator.outbox.sqlite import statements

_FEED: Final = "of_feed"  # a parameter's name that no column has
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class FeedRow(NamedTuple):
    """A feed as the outbox has it; instants in microseconds since the epoch."""

    id: int
    name: TableName
    table_id: str | None
    primary_key: str | None
    projection: str
    absorb_changed: bool
    opened_at: int | None
    alive_at: int | None
    first_ready_at: int | None
    ready_at: int | None
    changed_at: int | None
    captured: int
    skipped: int


class StoredFeed(msgspec.Struct, frozen=True):
    """All columns of a feed's row."""

    id: int
    database_name: str
    table_name: str
    table_id: str | None
    primary_key: str | None
    projection: str
    absorb_changed: Annotated[int, msgspec.Meta(ge=0, le=1)]
    state: FeedState
    opened_at: Instant | None
    alive_at: Instant | None
    first_ready_at: Instant | None
    ready_at: Instant | None
    changed_at: Instant | None
    captured: Count
    skipped: Count
    snapshot_documents: Count
    last_error: str | None
    last_error_at: Instant | None


class _NameRow(NamedTuple):
    """A row of `names`."""

    id: int
    database: str
    table: str


def register(connection: Connection, name: TableName, projection: str) -> tuple[FeedRow, bool]:
    """Return the feed of a table, making it if it is new, and whether it is.

    A feed whose process died is set to lost: nothing is open now.
    """
    where = (feeds.c.database_name == name.database) & (feeds.c.table_name == name.table)
    found = connection.execute(select(feeds).where(where)).mappings().one_or_none()
    if found is None:
        connection.execute(
            insert(feeds).values(
                database_name=name.database,
                table_name=name.table,
                projection=projection,
                state=FeedState.LOST,
            )
        )
        made = connection.execute(select(feeds).where(where)).mappings().one()
        return _row(made), True
    connection.execute(update(feeds).where(where).values(state=FeedState.LOST))
    return _row(found), False


def read_row(found: Any) -> StoredFeed:
    """Return a mapping of all columns of a feed in its shape.

    Raises:
        OutboxUnusable: it is no row that was written here.
    """
    # SQLAlchemy has names of a class of its own; a struct takes plain ones.
    columns = {str(name): value for name, value in found.items()}
    (row,) = sound([columns], StoredFeed, feeds.name)
    return msgspec.structs.replace(row, primary_key=_read_name(row.primary_key))


def _row(found: Any) -> FeedRow:
    row = read_row(found)
    return FeedRow(
        id=row.id,
        name=TableName(row.database_name, row.table_name),
        table_id=row.table_id,
        primary_key=row.primary_key,
        projection=row.projection,
        absorb_changed=bool(row.absorb_changed),
        opened_at=row.opened_at,
        alive_at=row.alive_at,
        first_ready_at=row.first_ready_at,
        ready_at=row.ready_at,
        changed_at=row.changed_at,
        captured=row.captured,
        skipped=row.skipped,
    )


def _stored_name(name: str | None) -> str | None:
    """Return the name of a field as a database can hold it.

    RethinkDB takes half a surrogate pair in a name and UTF-8 does not: such a name is kept as
    its JSON, in quotes, and so is one that begins with a quote itself.
    """
    if name is None or not (name.startswith('"') or _SURROGATE.search(name)):
        return name
    return json.dumps(name)


def _read_name(stored: str | None) -> str | None:
    if stored is None or not stored.startswith('"'):
        return stored
    try:
        return str(json.loads(stored))
    except ValueError:  # written as it stands, by a version before this rule
        return stored


def save(connection: Connection, feed_id: int, **columns: Any) -> None:
    """Change columns of a feed's row; safe to repeat."""
    if "primary_key" in columns:
        columns["primary_key"] = _stored_name(columns["primary_key"])
    statement, order = _update(tuple(columns))
    values = {**columns, _FEED: feed_id}
    statements.run(connection, statement, [values[name] for name in order])


@functools.cache  # there are few sets of columns that are saved together, and one at each commit
def _update(columns: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the statement that changes these columns, and the order of its parameters."""
    compiled = (
        update(feeds)
        .where(feeds.c.id == bindparam(_FEED))
        .values({name: bindparam(name) for name in columns})
        .compile(dialect=sqlite.dialect())
    )
    return str(compiled), list(compiled.positiontup or ())


def names(connection: Connection) -> dict[int, TableName]:
    """Return the tables of all feeds that this outbox has ever had."""
    rows = connection.execute(select(feeds.c.id, feeds.c.database_name, feeds.c.table_name))
    found = sound(map(tuple, rows), _NameRow, feeds.name)
    return {row.id: TableName(row.database, row.table) for row in found}


def not_dropped(connection: Connection, databases: Collection[str]) -> list[TableName]:
    """Return the tables of these databases whose deletes are not all captured."""
    rows = connection.execute(
        select(feeds.c.id, feeds.c.database_name, feeds.c.table_name).where(
            feeds.c.database_name.in_(databases), feeds.c.state != FeedState.DROPPED.value
        )
    )
    found = sound(map(tuple, rows), _NameRow, feeds.name)
    return [TableName(row.database, row.table) for row in found]


def open_gap(connection: Connection, feed_id: int) -> Gap | None:
    """Return the gap of a feed that is not repaired yet."""
    row = connection.execute(
        select(gaps.c.id, gaps.c.cause, gaps.c.opened_at).where(
            gaps.c.feed_id == feed_id, gaps.c.closed_at.is_(None)
        )
    ).one_or_none()
    if row is None:
        return None
    (gap,) = sound([tuple(row)], Gap, gaps.name)
    return gap


def record_gap(connection: Connection, feed_id: int, cause: Cause, opened_at: int) -> Gap:
    """Open a gap: from this instant on, versions of documents may have been missed."""
    result = connection.execute(
        insert(gaps).values(feed_id=feed_id, cause=cause.value, opened_at=opened_at)
    )
    row = result.inserted_primary_key
    if row is None:
        raise RuntimeError("the database did not say which row it inserted")
    return Gap(row[0], cause, opened_at)


def add_to_gap(connection: Connection, gap_id: int, **counts: int) -> None:
    """Add to what the repair of a gap created, updated, deleted, or the server skipped."""
    values = {name: gaps.c[name] + count for name, count in counts.items() if count}
    if values:
        connection.execute(update(gaps).where(gaps.c.id == gap_id).values(**values))


def close_gap(connection: Connection, gap_id: int, closed_at: int) -> Sequence[Any]:
    """Close a gap: the feed is complete again; returns created, updated, deleted."""
    connection.execute(update(gaps).where(gaps.c.id == gap_id).values(closed_at=closed_at))
    return connection.execute(
        select(gaps.c.created, gaps.c.updated, gaps.c.deleted).where(gaps.c.id == gap_id)
    ).one()
