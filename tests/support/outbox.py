"""An outbox with a fake clock and a fake publisher, driven one step at a time."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy

from replicator.domain.feed import Feed
from replicator.domain.feed_element import Change
from replicator.domain.items import (
    FeedBatch,
    FeedClosed,
    FeedOpened,
    Item,
    SnapshotRead,
    TableSettings,
)
from replicator.domain.model import Cause, Entry, Outcomes, TableName
from replicator.metrics import Metrics
from replicator.outbox import feeds, schema
from replicator.outbox.sqlite.connection import open_engine, open_writer
from replicator.outbox.sqlite.database import SqliteDatabase
from replicator.outbox.sqlite.outbox import SqliteOutbox
from replicator.store.inbox import Inbox, Work
from replicator.store.pausing import OutboxLimits
from replicator.store.store import Store
from tests.support.failing import FailingConnection

SECOND = 1_000_000
TABLE = TableName("db", "t")


class FakeSink:
    """A publisher that only records what it gets."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.entries: list[Entry] = []
        self.reading = 1
        self.forgotten = 0

    def offer(self, entries: Sequence[Entry], reading: int) -> None:
        assert reading == self.reading
        self.entries += entries
        self.room -= len(entries)

    def forget(self) -> None:
        self.forgotten += 1

    @property
    def numbers(self) -> list[int]:
        return [entry.number for entry in self.entries]

    def said(self) -> list[tuple[str, str, Any]]:
        """Return operation, origin and body of everything that was offered."""
        return [(e.op.value, e.origin.value, json.loads(e.body)) for e in self.entries]


class Outbox:
    """One process's store on an outbox; `restart` is the next process."""

    def __init__(
        self,
        path: Path,
        *tables: TableSettings,
        limits: OutboxLimits = OutboxLimits(1_000_000, 1 << 40),  # noqa: B008 -- an immutable value
        room: int = 1_000_000,
        now: int = 1_700_000_000 * SECOND,
        has_channel: bool = True,
    ) -> None:
        self._next: Outbox | None = None
        self.path = path
        self.tables = tables or (table(),)
        self.limits = limits
        self.now = now
        self.metrics = Metrics()
        self.inbox = Inbox()
        self.sink = FakeSink(room)
        self.database = SqliteDatabase(path)
        self.database.upgrade(create=True)
        self.engine = open_engine(path)
        self.connection = FailingConnection(open_writer(path))
        self.outbox = SqliteOutbox(path, self.connection)  # type: ignore[arg-type]
        self.store = Store(
            self.outbox, self.inbox, self.metrics, limits=limits, clock=lambda: self.now
        )
        try:
            self.store.prepare()
            self.store.register(self.tables)
        except BaseException:
            self.close()
            raise
        self.store.connect(self.sink)
        if has_channel:
            self.open_channel()

    def open_channel(self) -> None:
        """Make the publisher ask for its first reading."""
        self.store.step(Work([], [Outcomes(reading=self.sink.reading)]), self.now)

    def read_again(self) -> None:
        """Make the publisher forget what it has, as after a lost channel, and ask again."""
        self.sink.reading += 1
        self.open_channel()

    def close(self) -> None:
        self.outbox.close()
        self.engine.dispose()
        if self._next is not None:
            self._next.close()

    def restart(
        self, *tables: TableSettings, room: int = 1_000_000, has_channel: bool = True
    ) -> "Outbox":
        """Return the next process's store, as after a crash of this one; closed with this one."""
        self.close()
        self._next = Outbox(
            self.path,
            *(tables or self.tables),
            limits=self.limits,
            room=room,
            now=self.now + 60 * SECOND,
            has_channel=has_channel,
        )
        return self._next

    def step(self, *items: Item, outcomes: Sequence[Outcomes] = ()) -> None:
        """Do one step with these items, a second after the last one."""
        self.now += SECOND
        self.store.step(Work(list(items), list(outcomes)), self.now)
        self._compare_kept()

    def _compare_kept(self) -> None:
        """Check that the outbox has the feeds as the store has them: it saves only differences."""
        kept = self.store._memory.kept
        assert set(kept) == set(self.store.status.feeds)
        last_order = sqlalchemy.select(
            sqlalchemy.func.coalesce(sqlalchemy.func.max(schema.operations.c.id), 0)
        )
        with self.engine.connect() as connection:
            rows = connection.execute(sqlalchemy.select(schema.feeds)).mappings().all()
            by_id = {row["id"]: row for row in rows}
            for feed_id, feed in kept.items():
                columns = feeds.columns(feed)
                if connection.scalar(last_order) != self.store._orders.last:
                    del columns["guard"]  # a command has written what it accepts of it
                assert columns == {name: by_id[feed_id][name] for name in columns}
                assert feeds.open_gap(connection, feed_id) == feed.open_gap

    def settle(self, *entries: Entry) -> None:
        """Confirm entries as the publisher does."""
        size = sum(len(entry.body) for entry in entries)
        self.step(outcomes=[Outcomes([entry.number for entry in entries], size)])

    def feed(self, feed_id: int = 1) -> Feed:
        return self.store.status.feeds[feed_id]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return what a statement finds, in a connection of its own."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(statement))]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    # Items of a feed, each at the present time.

    def opened(self, table_id: str = "T1", key: str = "id", feed_id: int = 1) -> FeedOpened:
        return FeedOpened(feed_id, table_id, key, self.now)

    def batch(self, *changes: Change, feed_id: int = 1) -> FeedBatch:
        size = sum(len(each.old_val) + len(each.new_val) for each in changes)
        return FeedBatch(feed_id, changes, size, self.now)

    def ready(self, feed_id: int = 1) -> SnapshotRead:
        return SnapshotRead(feed_id, self.now)

    def closed(
        self,
        cause: Cause = Cause.DISCONNECT,
        error: str = "lost",
        skipped: int = 0,
        feed_id: int = 1,
    ) -> FeedClosed:
        return FeedClosed(feed_id, cause, error, skipped, self.now)


def table(
    name: TableName = TABLE,
    *,
    projection: str = "{}",
    keep_documents: bool = False,
    is_baseline: bool = False,
) -> TableSettings:
    return TableSettings(name, projection, keep_documents, is_baseline)


@contextlib.contextmanager
def outbox(path: Path, *tables: TableSettings, **options: Any) -> Iterator[Outbox]:
    """Open an outbox in a directory, and close it at the end."""
    opened = Outbox(path / "outbox.db", *tables, **options)
    try:
        yield opened
    finally:
        opened.close()
