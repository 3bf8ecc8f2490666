"""Which tables there are: looked at while the service runs, for settings such as ``shop.*``.

RethinkDB compares its system table ``table_config`` once a second if there is a changefeed on it.
The feed only says that something changed. The list is then read as a whole, as it is every half
minute, so that there is one way to learn of a table. It takes `read` on ``table_config`` only.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from rethinkdb import r

from replicator.domain.model import TableName
from replicator.errors import ReplicatorError
from replicator.log import WarnOnce, get_logger
from replicator.metrics import Metrics
from replicator.retry import Retrying
from replicator.source.changefeed import OpenFeed
from replicator.source.connection import Server, asking, connect
from replicator.source.driver import close
from replicator.source.watchdog import Watch

_WAIT_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 20.0
_LIST_EVERY_SECONDS: Final = 30.0
# A server that has just joined its cluster may not know every table yet, and a table that is taken
# for dropped costs a delete for each of its documents. So it must be missing in several lists in a
# row over one connection; for longer when the whole database is missing, or all of its tables at
# once, which is what a server without its cluster's metadata says, too.
_AWAY_SECONDS: Final = 5.0
_ALL_AWAY_SECONDS: Final = 60.0
_MIN_LOOKS: Final = 3
SYSTEM: Final = TableName("rethinkdb", "table_config")


class Tables(Protocol):
    """What discovery reads: an open feed on the list of tables, and the list."""

    def changed(self, wait_seconds: float) -> bool:
        """Wait at most this long for a change of the list. Returns whether there was one."""
        ...

    def names(self) -> frozenset[TableName]:
        """Return the tables of all databases."""
        ...

    def databases(self) -> frozenset[str]:
        """Return the databases, including those without tables."""
        ...

    def abort(self) -> None:
        """End it from another thread."""
        ...


class TableConfig(OpenFeed):
    """The system table ``table_config`` over one connection, with a changefeed on it."""

    def changed(self, wait_seconds: float) -> bool:
        """Wait at most this long for a change of any table's row. Returns whether there was one.

        Raises:
            FeedDisconnected, FeedAborted: it has to be opened again.
        """
        return bool(self.next_batch(wait_seconds))

    def names(self) -> frozenset[TableName]:
        """Return the tables of all databases, including those that are not available now.

        Raises:
            FeedDisconnected, FeedAborted: try again.
            SourceRefused: no permission.
        """
        with self._asking(_ANSWER_SECONDS):
            return read_names(self._connection)

    def databases(self) -> frozenset[str]:
        """Return the databases, including those without tables; needs no permission.

        Raises:
            FeedDisconnected, FeedAborted: try again.
        """
        with self._asking(_ANSWER_SECONDS):
            return frozenset(map(str, r.db_list().run(self._connection)))


def read_names(connection: Any) -> frozenset[TableName]:
    """Return the tables of all databases; the caller bounds the time and translates errors."""
    rows = r.db(SYSTEM.database).table(SYSTEM.table).pluck("db", "name").run(connection)
    return frozenset(TableName(str(row["db"]), str(row["name"])) for row in rows)


@contextmanager
def open_table_config(server: Server, watch: Watch) -> Iterator[TableConfig]:
    """Connect and open a changefeed on the list of tables.

    Raises:
        SourceUnavailable, FeedDisconnected, FeedAborted: try again.
        SourceRefused: wrong user, or no permission to read it.
    """
    connection = connect(server)
    try:
        with asking(connection, watch, _ANSWER_SECONDS, SYSTEM):
            # Says cleanly that permission is missing, unlike opening a feed without it.
            read_names(connection)
            system = r.db(SYSTEM.database).table(SYSTEM.table)
            cursor = system.pluck("id", "db", "name").changes(squash=False).run(connection)
        yield TableConfig(connection, cursor, watch, SYSTEM)
    finally:
        close(connection)


class DiscoveryStatus(NamedTuple):
    """The state of discovery."""

    is_current: bool  # the list is being followed, and was read since it was opened
    error: str | None
    since: float  # seconds since the epoch
    progressed_at: float  # monotonic seconds: when its loop last turned
    is_waiting: bool  # until a reader has ended, or for the store


class _Away(NamedTuple):
    """A table that is missing in the list, and in how many lists in a row."""

    since: float
    looks: int = 0
    is_alone: bool = True  # in each look, other tables of its database were listed

    def seen(self, *, is_alone: bool) -> "_Away":
        return _Away(self.since, self.looks + 1, self.is_alone and is_alone)

    def is_gone(self, now: float) -> bool:
        needed = _AWAY_SECONDS if self.is_alone else _ALL_AWAY_SECONDS
        return self.looks >= _MIN_LOOKS and now - self.since >= needed


class Discovery:
    """Follows which tables some databases have; `run` is its thread."""

    def __init__(
        self,
        databases: Collection[str],
        opener: Callable[[], Any],
        take: Callable[[Collection[TableName], Collection[TableName]], None],
        metrics: Metrics,
        *,
        known: Collection[TableName] = (),
    ) -> None:
        """Bind to databases; nothing is opened yet.

        Args:
            databases: those whose tables are all wanted.
            opener: opens the list of tables, as a context manager.
            take: called on this thread with the tables that exist, and with those that did and may
                do so again in a moment; what is in neither is gone. It may wait.
            metrics: where reconnects are counted.
            known: tables that existed when the last process ended.
        """
        self._databases = frozenset(databases)
        self._open = opener
        self._take = take
        self._metrics = metrics
        self._log = get_logger("discovery").bind(databases=sorted(databases))
        self._stop = threading.Event()
        self._retrying = Retrying(self._stop, note=self._note, is_patient=lambda: self._was_open)
        self._tables: Tables | None = None
        self._was_open = False
        self._present = frozenset(known)
        self._away: dict[TableName, _Away] = {}
        self._missing: frozenset[str] = frozenset()
        self._list_at = 0.0
        self._losses = WarnOnce(self._log, "the list of tables is lost, reading it again")
        self._is_waiting = False
        self.status = DiscoveryStatus(
            is_current=False, error=None, since=time.time(), progressed_at=0.0, is_waiting=False
        )
        self._turned()

    def run(self) -> None:
        """Follow the list until stopped, opening it again whenever it is lost.

        Raises:
            PermanentError: when it occurs before the list was ever read in this process. Later
                the same error is retried slowly.
        """
        self._retrying.until_stopped(self._follow)

    def stop(self) -> None:
        """End `run` soon, from any thread; safe to repeat."""
        self._stop.set()
        if (tables := self._tables) is not None:
            tables.abort()

    def _note(self, err: ReplicatorError) -> None:
        self._turned(error=str(err))
        self._losses.warn(err)

    def _follow(self) -> None:
        self._turned()
        try:
            with self._open() as tables:
                self._tables = tables
                if self._was_open:
                    self._metrics.reconnects.labels("rethinkdb").inc()
                self._was_open = True
                self._list_at = 0.0
                # Another server may answer now: what the last one said of missing tables is void.
                self._away.clear()
                while not self._stop.is_set():
                    self.step(tables, time.monotonic())
                    self._retrying.worked()
                    self._losses.forget()
        finally:
            self._tables = None
            self._turned(is_current=False)

    def step(self, tables: Tables, now: float) -> bool:
        """Read the list if it changed or is due, and hand it over. Returns whether it did.

        Raises:
            FeedLost: it has to be opened again.
        """
        is_due = now >= self._list_at or bool(self._away)
        # Order matters: the feed is asked first. A change between the two is in the list, and at
        # worst the list is read once more; the other way round it could be missed.
        if not (tables.changed(0.0 if now >= self._list_at else _WAIT_SECONDS) or is_due):
            self._turned()
            return False
        self._list_at = now + _LIST_EVERY_SECONDS
        found = frozenset(name for name in tables.names() if name.database in self._databases)
        is_missed = not self._present <= found
        has_empty = not self._databases <= {name.database for name in found}
        databases = tables.databases() if is_missed or has_empty else self._databases
        self._warn_of_missing(self._databases - databases)
        self._look(found, databases, now)
        self._turned(is_current=True)
        return True

    def _warn_of_missing(self, missing: frozenset[str]) -> None:
        """Log each database that does not exist, once until it does."""
        for database in sorted(missing - self._missing):
            self._log.warning(
                "there is no such database, waiting for it",
                database=database,
                hint="check --table and tables[].name, or create the database",
            )
        self._missing = missing

    def _look(self, found: frozenset[TableName], databases: frozenset[str], now: float) -> None:
        # Other tables of these are listed: the server that answers knows the database.
        known = {name.database for name in found if name.database in databases}
        away = self._present - found
        self._away = {
            name: self._away.get(name, _Away(now)).seen(is_alone=name.database in known)
            for name in away
        }
        gone = {name for name, each in self._away.items() if each.is_gone(now)}
        for name in gone:
            del self._away[name]
        self._present = (self._present | found) - gone
        self._is_waiting = True
        self._turned()
        try:
            self._take(found, frozenset(self._away))
        finally:
            self._is_waiting = False

    def _turned(self, *, is_current: bool | None = None, error: str | None = None) -> None:
        before = self.status
        is_now = before.is_current if is_current is None else is_current
        self.status = DiscoveryStatus(
            is_current=is_now,
            error=None if is_now else (error or before.error),
            since=before.since if is_now == before.is_current else time.time(),
            progressed_at=time.monotonic(),
            is_waiting=self._is_waiting,
        )
