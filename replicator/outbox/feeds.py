"""Rows of the feeds and their gaps: where each table stands, and where changes may be missing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from replicator.domain.feed_state import FeedState
from replicator.domain.model import Cause, TableName
from replicator.outbox.schema import feeds, gaps


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


class Gap(NamedTuple):
    """A gap that is open: changes may be missing since then."""

    id: int
    cause: Cause
    opened_at: int


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


def _row(found: Any) -> FeedRow:
    return FeedRow(
        id=found["id"],
        name=TableName(found["database_name"], found["table_name"]),
        table_id=found["table_id"],
        primary_key=found["primary_key"],
        projection=found["projection"],
        absorb_changed=bool(found["absorb_changed"]),
        opened_at=found["opened_at"],
        alive_at=found["alive_at"],
        first_ready_at=found["first_ready_at"],
        ready_at=found["ready_at"],
        changed_at=found["changed_at"],
        captured=found["captured"],
        skipped=found["skipped"],
    )


def save(connection: Connection, feed_id: int, **columns: object) -> None:
    """Change columns of a feed's row; safe to repeat."""
    connection.execute(update(feeds).where(feeds.c.id == feed_id).values(**columns))


def names(connection: Connection) -> dict[int, TableName]:
    """Return the tables of all feeds that this outbox has ever had."""
    rows = connection.execute(select(feeds.c.id, feeds.c.database_name, feeds.c.table_name))
    return {feed_id: TableName(database, table) for feed_id, database, table in rows.all()}


def open_gap(connection: Connection, feed_id: int) -> Gap | None:
    """Return the gap of a feed that is not repaired yet."""
    row = connection.execute(
        select(gaps.c.id, gaps.c.cause, gaps.c.opened_at).where(
            gaps.c.feed_id == feed_id, gaps.c.closed_at.is_(None)
        )
    ).one_or_none()
    return Gap(row[0], Cause(row[1]), row[2]) if row is not None else None


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
