"""A feed's state as columns of its row, and back: the one place that lists them."""

import json
import re
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, select

from replicator.domain.feed import Feed, Gap
from replicator.domain.feed_state import FeedState
from replicator.domain.guard import Guard
from replicator.domain.model import Cause, TableName
from replicator.outbox.records import Count, Instant, damaged, sound, sound_key
from replicator.outbox.schema import feeds, gaps

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class StoredFeed(msgspec.Struct, frozen=True):
    """All columns of a feed's row; instants in microseconds since the epoch."""

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
    guard: str | None

    @property
    def name(self) -> TableName:
        """The table."""
        return TableName(self.database_name, self.table_name)

    def kept(self) -> dict[str, Any]:
        """Return the fields of a `Feed` that the outbox keeps, except its gap."""
        return {
            "indexed_projection": self.projection,
            "indexed_key": _read_name(self.primary_key),
            "absorb_changed": bool(self.absorb_changed),
            "state": self.state,
            "table_id": self.table_id,
            "opened_at": self.opened_at,
            "alive_at": self.alive_at,
            "first_ready_at": self.first_ready_at,
            "ready_at": self.ready_at,
            "changed_at": self.changed_at,
            "captured": self.captured,
            "compared": self.snapshot_documents,
            "skipped": self.skipped,
            "last_error": self.last_error,
            "last_error_at": self.last_error_at,
            "guard": read_guard(self.guard),
        }


def read_row(mapping: Any) -> StoredFeed:
    """Return the state of a feed, read from a mapping of all its columns.

    Raises:
        OutboxUnusable: no outbox writes such a row.
    """
    # SQLAlchemy's names are of its own class; a struct accepts only plain strings.
    (row,) = sound([{str(name): value for name, value in mapping.items()}], StoredFeed, feeds.name)
    read_guard(row.guard)
    return row


def columns(feed: Feed) -> dict[str, object]:
    """Return what the outbox keeps of a feed, as columns of its row."""
    return {
        "projection": feed.indexed_projection,
        "primary_key": _stored_name(feed.indexed_key),
        "absorb_changed": int(feed.absorb_changed),
        "state": feed.state.value,
        "table_id": feed.table_id,
        "opened_at": feed.opened_at,
        "alive_at": feed.alive_at,
        "first_ready_at": feed.first_ready_at,
        "ready_at": feed.ready_at,
        "changed_at": feed.changed_at,
        "captured": feed.captured,
        "snapshot_documents": feed.compared,
        "skipped": feed.skipped,
        "last_error": feed.last_error,
        "last_error_at": feed.last_error_at,
        "guard": stored_guard(feed.guard),
    }


def stored_guard(guard: Guard | None) -> str | None:
    """Return what was held back as its column has it."""
    return None if guard is None else msgspec.json.encode(guard).decode()


def read_guard(stored: str | None) -> Guard | None:
    """Return what was held back, read from its column; raises what `read_row` does."""
    if stored is None:
        return None
    try:
        guard = msgspec.json.decode(stored, type=Guard)
    except ValueError as err:
        raise damaged(feeds.name, f"a guard is unreadable: {err}") from err
    for key in guard.keys:
        sound_key(key, feeds.name)
    return guard


def difference(before: Feed, after: Feed) -> dict[str, object]:
    """Return the columns of a feed that must be written, with their new values."""
    old = columns(before)
    return {name: value for name, value in columns(after).items() if value != old[name]}


class _StoredGap(NamedTuple):
    """What the outbox keeps of an open gap."""

    cause: Cause
    opened_at: Instant
    created: Count
    updated: Count
    deleted: Count
    skipped: Count


GAP_COLUMNS: Final = tuple(gaps.c[name] for name in _StoredGap._fields)


def read_gap(row: Any) -> Gap:
    """Return the gap in a row of `GAP_COLUMNS`; raises what `read_row` does."""
    (gap,) = sound([tuple(row)], _StoredGap, gaps.name)
    return Gap(*gap)


def open_gap(connection: Connection, feed_id: int) -> Gap | None:
    """Return the gap of a feed that is not repaired yet; raises what `read_row` does."""
    query = select(*GAP_COLUMNS).where(gaps.c.feed_id == feed_id, gaps.c.closed_at.is_(None))
    row = connection.execute(query).one_or_none()
    return None if row is None else read_gap(row)


def _stored_name(name: str | None) -> str | None:
    """Return the name of a field as a database can hold it.

    RethinkDB accepts half a surrogate pair in a name, UTF-8 does not: such a name is kept as its
    JSON, in quotes, and so is a name that itself begins with a quote.
    """
    if name is None or not (name.startswith('"') or _SURROGATE.search(name)):
        return name
    return json.dumps(name)


def _read_name(stored: str | None) -> str | None:
    if stored is None or not stored.startswith('"'):
        return stored
    try:
        return str(json.loads(stored))
    except ValueError:  # written as it stands, by a version older than this rule
        return stored
