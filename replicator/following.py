"""The tables that are followed: a reader and a thread for each, started and ended at run time.

Tables that the settings name have their readers from the start. Those of a whole database come
and go: discovery finds them, the store makes a feed for each, and its reader starts.

Locks: the thread that builds the service, discovery and the store change the dictionary of
readers, and all threads read it.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NamedTuple

from replicator.clock import now_us
from replicator.composition import Worker, rethinkdb_server, table_settings
from replicator.config import Settings
from replicator.domain.feed import Feed
from replicator.domain.items import TableDropped, TableFound, TableSettings
from replicator.domain.model import TableName
from replicator.domain.ports import FeedSink
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.source.changefeed import open_changefeed
from replicator.source.discovery import Discovery, open_table_config
from replicator.source.projection import FieldRules
from replicator.source.reader import FeedReader
from replicator.source.watchdog import Watch, Watchdog

_JOIN_SECONDS: Final = 0.5


class _Followed(NamedTuple):
    reader: FeedReader
    worker: Worker
    watch: Watch


class Following:
    """The readers of all tables, and discovery where whole databases are followed."""

    def __init__(
        self, settings: Settings, sink: FeedSink, metrics: Metrics, on_end: Callable[[], None]
    ) -> None:
        """Follow nothing yet.

        Args:
            settings: which tables, and where.
            sink: the store's inbox.
            metrics: counts reconnects.
            on_end: called when one of the threads has ended.
        """
        self._settings = settings
        self._sink = sink
        self._metrics = metrics
        self._on_end = on_end
        self._log = get_logger("service")
        self.watchdog: Final = Watchdog()
        self._lock = threading.Lock()
        self._followed: dict[TableName, _Followed] = {}
        self._wanted: frozenset[TableName] = frozenset()
        self._unanswered: Counter[TableName] = Counter()
        """How many `TableFound` of a table the store has not made a feed for yet."""
        self._present: frozenset[TableName] = frozenset()
        self._is_started = False
        self._stop = threading.Event()
        self.discovery: Discovery | None = None
        self._discovering: Worker | None = None

    # Building.

    def named(self) -> list[TableSettings]:
        """Return the tables that the settings name one by one."""
        return [
            table_settings(table.full_name, table)
            for table in self._settings.tables
            if not table.full_name.is_pattern
        ]

    def remembered(self, known: Collection[TableName]) -> list[TableSettings]:
        """Return those of the outbox's tables about which discovery decides."""
        return [self._settings_of(name) for name in known if self._is_discovered(name)]

    def discover(self, known: Collection[TableName]) -> None:
        """Find the tables of whole databases, if the settings name any; before `start`."""
        databases = self._settings.databases
        if not databases:
            return
        opener = partial(open_table_config, rethinkdb_server(self._settings), self.watchdog.watch())
        mine = [name for name in known if self._is_discovered(name)]
        self._present = frozenset(mine)
        self.discovery = Discovery(databases, opener, self.take, self._metrics, known=mine)
        self._discovering = Worker("discovery", self.discovery.run, self._on_end)

    def follow(self, feed: Feed) -> None:
        """Give a feed its reader, unless it has one, and start it if the service runs."""
        with self._lock:
            if self._is_discovered(feed.name):
                self._unanswered[feed.name] -= 1
                # Race: a table that was found can be gone again before the store has made its feed,
                # and even be found again. The store then ends this feed before it makes the next
                # one, and a reader must not be ahead of that.
                if self._unanswered[feed.name] > 0 or feed.name not in self._wanted:
                    return
            if feed.name in self._followed or self._stop.is_set():
                return
            watch = self.watchdog.watch()
            reader = self._reader(feed, watch)
            worker = Worker(f"reader {feed.name}", reader.run, self._on_end)
            self._followed[feed.name] = _Followed(reader, worker, watch)
            if self._is_started:
                worker.thread.start()

    def _reader(self, feed: Feed, watch: Watch) -> FeedReader:
        table = self._settings.table(feed.name)
        if table is None:
            raise ValueError(f"a feed of {feed.name}, which the settings do not name")
        fields = FieldRules(table.include_fields, table.exclude_fields)
        opener = partial(
            open_changefeed,
            rethinkdb_server(self._settings),
            feed.name,
            fields,
            watch=watch,
        )
        return FeedReader(
            feed.id,
            feed.name,
            lambda queue_size: opener(queue_size=queue_size),
            self._sink,
            self._metrics,
            queue_size=self._settings.rethinkdb.changefeed_queue_size,
            is_patient=self._is_discovered(feed.name),
        )

    def _is_discovered(self, name: TableName) -> bool:
        """Return whether a table is followed as part of its database, not by its own name."""
        table = self._settings.table(name)
        return table is not None and table.full_name.is_pattern

    def _settings_of(self, name: TableName) -> TableSettings:
        table = self._settings.table(name)
        if table is None:
            raise ValueError(f"{name} is in none of the databases that are followed")
        return table_settings(name, table)

    # Running.

    def start(self) -> None:
        """Start all threads."""
        with self._lock:
            self._is_started = True
            workers = [each.worker for each in self._followed.values()]
        if self._discovering is not None:
            workers.append(self._discovering)
        for worker in workers:
            worker.thread.start()

    def take(self, found: Collection[TableName], away: Collection[TableName]) -> None:
        """Follow the tables that are there, and give up those that are gone.

        For discovery's thread; waits for readers to end and for the store. Nothing is done about
        the tables in ``away``, which may come back in a moment.
        """
        found = {name for name in found if self._is_discovered(name)}
        gone = self._present - found - set(away)
        new = found - self._wanted
        self._present = (self._present | found) - gone
        for name in sorted(gone):
            self._log.info("table is gone", table=str(name))
            if not self._give_up(name):
                return
        for name in sorted(new):
            self._log.info("table is there, following it", table=str(name))
            with self._lock:
                self._wanted |= {name}
                self._unanswered[name] += 1
            self._sink.put(TableFound(self._settings_of(name), now_us()))

    def _give_up(self, name: TableName) -> bool:
        with self._lock:
            self._wanted -= {name}
            followed = self._followed.pop(name, None)
        if followed is not None:
            followed.reader.stop()
            while followed.worker.thread.is_alive():
                if self._stop.is_set():
                    return False
                followed.worker.thread.join(_JOIN_SECONDS)
            self.watchdog.forget(followed.watch)
        # Order matters: everything that the reader handed over must come before this.
        self._sink.put(TableDropped(name, now_us()))
        return True

    # For other threads.

    @property
    def readers(self) -> list[FeedReader]:
        """The present readers."""
        with self._lock:
            return [each.reader for each in self._followed.values()]

    def request_resync(self, name: TableName) -> bool:
        """Ask the reader of a table for a new snapshot; returns whether the table has a reader."""
        with self._lock:
            followed = self._followed.get(name)
        if followed is not None:
            followed.reader.request_resync()
        return followed is not None

    @property
    def wanted(self) -> frozenset[TableName]:
        """The tables of whole databases that are there."""
        return self._wanted

    @property
    def is_connected(self) -> bool:
        """Whether every feed is open, including the one on the list of tables if it is needed."""
        return all(reader.is_connected for reader in self.readers) and (
            self.discovery is None or self.discovery.status.is_current
        )

    def workers(self) -> list[Worker]:
        """Return the threads that must run as long as the service does."""
        with self._lock:
            workers = [each.worker for each in self._followed.values()]
        return workers if self._discovering is None else [*workers, self._discovering]

    def stop(self, seconds: float) -> None:
        """End all readers and discovery, waiting for them for at most ``seconds``."""
        with self._lock:
            # Critical section: no reader is added after this.
            self._stop.set()
        if self.discovery is not None:
            self.discovery.stop()
        for reader in self.readers:
            reader.stop()
        deadline = time.monotonic() + seconds
        for worker in self.workers():
            if worker.thread.ident is not None:
                worker.thread.join(max(0.0, deadline - time.monotonic()))
