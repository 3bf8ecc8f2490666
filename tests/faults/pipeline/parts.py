"""The product's parts as one simulated process has them, and what is put between them."""

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from replicator import retry
from replicator.domain.items import FeedBatch, FeedClosed, FeedItem
from replicator.domain.model import Cause, Entry, Outcomes, TableName
from replicator.errors import (
    FeedLost,
    FeedOverflowed,
    ReplicatorError,
    SnapshotStalled,
    TableUnusable,
)
from replicator.metrics import Metrics
from replicator.outbox.sqlite import connection as connection_module
from replicator.outbox.sqlite import room, statements
from replicator.outbox.sqlite.database import SqliteDatabase
from replicator.outbox.sqlite.outbox import SqliteOutbox
from replicator.publisher import delivery, publisher
from replicator.source import reader as reader_module
from replicator.source.changefeed import Changefeed
from replicator.source.reader import FeedReader
from replicator.source.watchdog import Watch
from replicator.store import capture, handover, inbox, store, sweep
from replicator.store.inbox import Inbox, Work
from replicator.store.store import Store
from tests.faults.pipeline.clock import SimulatedClock
from tests.faults.pipeline.simulated_source import (
    SimulatedConnection,
    SimulatedFeed,
    SimulatedTable,
)

INBOX_BYTES = 300
STEP_BYTES = 150
PAGE_ENTRIES = 3
MIN_BUFFERED = 6
CHECK_EVERY_SECONDS = 0.005  # a few actions: commands are heard early and late
_SERVER_QUEUE = 4
_IDLE_TURNS = 16
_METRICS = Metrics()  # counters only: no decision looks at them
_SQLITE_FULL, _SQLITE_BUSY = 13, 5


class Crash(BaseException):
    """The process is killed: nothing that it has in memory is left."""


class Opened(BaseException):
    """A feed is open: its reader's loop would begin now."""


class Patience:
    """The wait between two attempts to commit: the rest of the world goes on meanwhile."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None

    def with_jitter(self, _failures: int) -> float:
        self.meanwhile()
        return 0.0


class FaultyConnection(sqlite3.Connection):
    """The store's connection, whose statements fail when they are told to.

    Its cursors are not watched: with them, a scenario looks into the database.
    """

    before: Callable[[str], None] = staticmethod(lambda _statement: None)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self.before(statement)
        return super().execute(statement, *values)

    def executemany(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self.before(statement)
        return super().executemany(statement, *values)


class Database:
    """One SQLite file for all scenarios, emptied between them, that fails when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        SqliteDatabase(path).upgrade(create=True)
        self.on_commit: Callable[[Any], None] = lambda _cursor: None
        self._faults: deque[tuple[int, bool]] = deque()
        self.reopen()

    @property
    def cursor(self) -> Any:
        """A cursor of the driver's own, which no fault meets."""
        return self.connection.cursor()

    def empty(self) -> None:
        self.heal()
        if self.connection.in_transaction:
            self.cursor.execute("ROLLBACK")
        self.on_commit = lambda _cursor: None
        for name in ("operations", "entries", "documents", "gaps", "feeds", "meta"):
            self.cursor.execute(f"DELETE FROM {name}")
        self.reopen()

    def fail(self, *, after: int, times: int, is_crash: bool) -> None:
        """Fail at a statement from now on, and so often at the next ones."""
        self._faults.extend((after if not n else 0, is_crash) for n in range(times))

    def heal(self) -> None:
        self._faults.clear()

    def reopen(self) -> None:
        """Do what a new process does: what was not committed is gone."""
        if (connection := getattr(self, "connection", None)) is None:
            connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, factory=FaultyConnection
            )
            connection_module._configure_sqlite(connection, None)
            connection.before = self._before
            self.connection = connection
        if connection.in_transaction:
            self.cursor.execute("ROLLBACK")
        self.outbox = SqliteOutbox(self.path, connection)

    def _before(self, statement: str) -> None:
        try:
            self._meet_fault()
        except sqlite3.OperationalError:
            if statement == statements.COMMIT:
                self.cursor.execute("ROLLBACK")  # SQLite does so by itself when it cannot commit
            raise
        if statement == statements.COMMIT:
            self.on_commit(self.cursor)

    def _meet_fault(self) -> None:
        if not self._faults:
            return
        after, is_crash = self._faults.popleft()
        if after:
            self._faults.appendleft((after - 1, is_crash))
        elif is_crash:
            raise Crash
        else:
            error = sqlite3.OperationalError("simulated")
            error.sqlite_errorcode = _SQLITE_FULL if len(self._faults) % 2 else _SQLITE_BUSY
            raise error

    def close(self) -> None:
        self.connection.close()


class WatchedStore(Store):
    """Says what the transaction under way is for."""

    items: Sequence[FeedItem] = ()
    outcomes: Sequence[Outcomes] = ()  # taken from the inbox, and not committed yet

    def commit(self, work: Work, now: int) -> None:
        self.items = work.items
        self.outcomes = work.outcomes
        try:
            super().commit(work, now)
        finally:
            self.items = ()


class Sink:
    """The publisher's door; a process may die in it, after the commit.

    What the store has read is old when it is handed over: other threads and processes went on.
    """

    def __init__(self, behind: publisher.Publisher, interlude: Callable[[], None]) -> None:
        self._behind = behind
        self._interlude = interlude
        self.kills = False

    @property
    def room(self) -> int:
        if self.kills:
            raise Crash
        return self._behind.room

    def offer(self, entries: Sequence[Entry], reading: int) -> None:
        self._interlude()
        self._behind.offer(entries, reading)

    def forget(self) -> None:
        self._interlude()
        self._behind.forget()


class Lane:
    """A table's reader; what it cannot hand over yet waits, and the reader with it."""

    def __init__(self, feed_id: int, table: SimulatedTable, inbox_: Inbox) -> None:
        self.table = table
        self._inbox = inbox_
        self._waiting: deque[FeedItem] = deque()
        self._feed: Changefeed | None = None
        self.reader = FeedReader(
            feed_id, TableName("db", table.name), self._open, self, _METRICS, queue_size=1
        )
        self._feed_id = feed_id

    @property
    def is_open(self) -> bool:
        return self._feed is not None

    @property
    def is_quiet(self) -> bool:
        return not self._waiting

    def put(self, item: FeedItem) -> bool:
        self._waiting.append(item)
        self.hand_over()
        return True

    def hand_over(self) -> None:
        while self._waiting and self._inbox._bytes < inbox._MAX_BYTES:
            item = self._waiting.popleft()
            before = self._inbox._bytes
            self._inbox.put(item)
            size = item.size if isinstance(item, FeedBatch) else 0
            assert self._inbox._bytes in (before, before + size)

    def _open(self, queue_size: int) -> Changefeed:
        if not self.table.is_there:
            raise TableUnusable(f"there is no table {self.table.name}")
        if self.table.feed is not None:
            self.table.disconnect()
        self.table.clock.advance(0.000_01)
        feed = SimulatedFeed(self.table, _SERVER_QUEUE * queue_size)
        cursor: Any = SimpleNamespace(
            items=feed.items,
            error=None,
            next=_report_open,
            outstanding_requests=1,
        )
        opened = Changefeed(SimulatedConnection(feed), cursor, Watch(), self.reader.name)
        opened.table_id = self.table.table_id
        opened.primary_key = self.table.primary_key
        self._feed = opened
        self._next = feed.next
        return opened

    def open(self) -> None:
        """Let the reader open its feed, as far as the beginning of its loop."""
        if self._feed is not None or self._waiting:
            return
        try:
            self.reader._follow()
        except Opened:
            assert self._feed is not None
            self._feed._cursor.next = self._next
        except ReplicatorError as err:
            self._close(err)

    def read(self) -> None:
        """Let the reader read once, unless it waits for the store."""
        self.hand_over()
        if self._feed is None or self._waiting:
            return
        try:
            self.reader.step(self._feed)
        except FeedLost as err:
            self._close(err)

    def _close(self, err: ReplicatorError) -> None:
        if isinstance(err, FeedOverflowed | SnapshotStalled):
            self.reader._queue_size = 2
        self._feed = None
        self.table.disconnect()
        self.reader._note(err)

    def wait_for_the_server(self) -> None:
        """Let the reader read until it gives a quiet snapshot up or hears something."""
        for _ in range(_IDLE_TURNS):
            if self._feed is None or self._waiting:
                return
            self.read()

    def stop(self) -> None:
        """Do what ends the reader's loop in an orderly stop."""
        now, complete_at = reader_module.now_us(), self.reader.complete_at
        self.put(FeedClosed(self._feed_id, Cause.START, "", 0, now, complete_at))


def _report_open(wait: float) -> Any:  # noqa: ARG001 -- the driver's signature
    raise Opened


class Simulated:
    """The product's modules with a clock that scenarios move, and limits that they reach."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.patience = Patience()
        self.is_disk_low = False
        self.new_link: Callable[..., Any] = SimpleNamespace

    def link(self, *arguments: Any, **options: Any) -> Any:
        """Make the link of the scenario that is played now."""
        return self.new_link(*arguments, **options)

    def reset(self) -> None:
        self.clock.__init__()  # type: ignore[misc]
        self.is_disk_low = False


@contextlib.contextmanager
def simulated() -> Iterator[Simulated]:
    """Put the simulation in the place of time, of links, and of limits that take long to reach."""
    world = Simulated()
    with pytest.MonkeyPatch.context() as patch:
        for module in (store, delivery, publisher, reader_module):
            patch.setattr(module, "time", world.clock)
        patch.setattr(reader_module, "now_us", lambda: world.clock.wall)
        patch.setattr(retry, "_backoff", lambda _error: world.patience)
        patch.setattr(handover, "_PAGE_ENTRIES", PAGE_ENTRIES)
        patch.setattr(store, "_CHECK_EVERY_SECONDS", CHECK_EVERY_SECONDS)
        patch.setattr(room, "is_disk_low", lambda _path, *, was_low: world.is_disk_low)  # noqa: ARG005
        patch.setattr(sweep, "_SWEEP_ROWS", 2)
        # Here a change is in the feed at once, and a gap has no excuse to begin too late.
        patch.setattr(capture, "_ON_ITS_WAY", 0)
        patch.setattr(capture, "_ON_ITS_WAY_IN_A_SPLIT", 0)
        patch.setattr(inbox, "_MAX_BYTES", INBOX_BYTES)
        patch.setattr(inbox, "_MAX_STEP_BYTES", STEP_BYTES)
        patch.setattr(delivery, "_MIN_BUFFERED", MIN_BUFFERED)
        patch.setattr(delivery, "_WRITE_BYTES", 100)
        patch.setattr(publisher, "prepare", lambda *_: SimpleNamespace())
        patch.setattr(publisher, "Link", world.link)
        level = structlog.get_config()
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[_drop])
        try:
            yield world
        finally:
            structlog.configure(**level)


def _drop(*_: object) -> Any:
    raise structlog.DropEvent
