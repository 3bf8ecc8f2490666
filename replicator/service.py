"""The composition root: builds the parts, starts them, watches them, stops them in order.

Threads: one reader per table, the store, the publisher, the watchdog, the HTTP server. A thread
that dies ends the process, with an exit status that says why; whoever runs it starts it again.

Stop order, and why:
    1. the readers, so that nothing new comes in;
    2. the store commits what they had handed over and hands nothing more to the publisher;
    3. the publisher waits for confirms, at most ``drain_timeout``;
    4. the store settles what was confirmed, and ends;
    5. the lock of the outbox goes last.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Final

import msgspec

from replicator import __version__
from replicator.config import Settings, Table
from replicator.domain.hosts import InTurn
from replicator.domain.model import Op
from replicator.errors import PermanentError, ReplicatorError, WorkerDied
from replicator.fault_points import FaultPoint, arm, reach
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.observation import Observation
from replicator.outbox.capture import Feed
from replicator.outbox.engine import database_path, open_engine
from replicator.outbox.inbox import Inbox
from replicator.outbox.lock import OutboxLock
from replicator.outbox.migrate import upgrade
from replicator.outbox.pausing import Limits
from replicator.outbox.privacy import REMEDY, exposures
from replicator.outbox.store import Store, TableSettings
from replicator.publisher.broker import Broker, Publication, Queue
from replicator.publisher.publisher import Publisher
from replicator.source.changefeed import FieldRules, open_changefeed
from replicator.source.connection import Server
from replicator.source.reader import FeedReader
from replicator.source.watchdog import Watchdog
from replicator.web.server import WebServer

_JOIN_SECONDS: Final = 5.0
_SAME_ORDER_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5


class Worker:
    """A thread of the service; remembers how it ended and says so."""

    def __init__(self, name: str, run: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Name it; `start` starts it."""
        self.name = name
        self.error: Exception | None = None
        self._run = run
        self._on_end = on_end
        self.thread: Final = threading.Thread(target=self._main, name=name, daemon=True)

    def _main(self) -> None:
        try:
            self._run()
        except Exception as err:  # noqa: BLE001 -- the loop's boundary: the supervisor decides
            self.error = err
            # What has a name is told by whoever `run` raises it to; a defect is told here as well,
            # with its trace at debug level.
            if not isinstance(err, ReplicatorError):
                get_logger("service").exception("a part ended by a defect", part=self.name)
        finally:
            self._on_end()


def _projection(table: Table) -> str:
    """Return stable text of which fields a feed shows: it decides what the digests are over."""
    fields: dict[str, list[str]] = {}
    if table.include_fields:
        fields["include"] = sorted(table.include_fields)
    if table.exclude_fields:
        fields["exclude"] = sorted(table.exclude_fields)
    return msgspec.json.encode(fields).decode()


def rethinkdb_server(settings: Settings) -> Server:
    """Return how to reach RethinkDB, from the settings."""
    source = settings.rethinkdb
    return Server(InTurn(source.hosts), source.user, source.password, source.tls_ca_file)


def rabbitmq_broker(settings: Settings) -> Broker:
    """Return how to reach RabbitMQ and what must be there, from the settings."""
    target = settings.rabbitmq
    return Broker(
        hosts=InTurn(target.hosts),
        user=target.user,
        password=target.password or "",
        virtual_host=target.virtual_host,
        exchange=target.exchange,
        is_tls=target.tls,
        tls_ca_file=target.tls_ca_file,
        tls_cert_file=target.tls_cert_file,
        tls_key_file=target.tls_key_file,
        exchange_type=target.exchange_type,
        is_exchange_durable=target.exchange_durable,
        queues=[Queue(queue.name, queue.bindings, queue.type) for queue in target.queues],
        heartbeat_seconds=int(target.heartbeat.total_seconds()),
    )


class Service:
    """One running replicator: `run` starts it, waits and stops it."""

    def __init__(self, settings: Settings) -> None:
        """Bind to settings; nothing is opened yet."""
        self._settings = settings
        self._log = get_logger("service")
        self.metrics: Final = Metrics()
        self._wake = threading.Event()
        self._stop_requested = False
        self._workers: list[Worker] = []
        self._readers: list[FeedReader] = []
        self._watchdog = Watchdog()
        self._inbox = Inbox()
        self._web: WebServer | None = None

    def request_stop(self) -> None:
        """Let `run` stop everything and return; from any thread; safe to repeat."""
        self._stop_requested = True
        self._wake.set()

    def run(self) -> None:
        """Run until stopped.

        Raises:
            PermanentError: a setting, a permission or the outbox is wrong: exit status 2.
            ReplicatorError: a part ended that must not: exit status 1.
        """
        lock = OutboxLock(database_path(self._settings.outbox.url))
        with lock:
            self._build()
            self._start()
            try:
                while not self._stop_requested and not self._dead():
                    # Race: the kernel may give a signal to any thread (it does so when a SIGCONT
                    # came just before it), and Python's handler runs when this one next turns.
                    self._wake.wait(_LOOK_SECONDS)
                    self._wake.clear()
            finally:
                self._stop()
            self._raise_what_died()
        self._log.info("stopped")

    # Building.

    def _build(self) -> None:
        settings = self._settings
        engine = open_engine(settings.outbox.url, create=True)
        before, after = upgrade(engine)
        if before != after:
            self._log.info("outbox schema is up to date", before=before, now=after)
        self._store = Store(
            engine,
            self._inbox,
            self.metrics,
            limits=Limits(settings.outbox.max_entries, settings.outbox.max_bytes),
        )
        self._store.prepare()
        feeds = self._store.register(
            [
                TableSettings(
                    table.full_name,
                    _projection(table),
                    keep_documents=table.keep_documents,
                    is_baseline=table.initial == "baseline",
                )
                for table in settings.tables
            ]
        )
        self._publisher = Publisher(
            rabbitmq_broker(settings),
            Publication(
                is_persistent=settings.rabbitmq.persistent,
                has_full_headers=settings.rabbitmq.headers == "full",
                window=settings.rabbitmq.window,
                on_unroutable=settings.rabbitmq.on_unroutable,
                routing_keys={table.full_name: table.routing_key for table in settings.tables},
            ),
            outbox_id=self._store.outbox_id,
            names=self._store.names(),
            report=self._inbox.report,
            metrics=self.metrics,
        )
        self._store.connect(self._publisher)
        tables = {table.full_name: table for table in settings.tables}
        self._readers = [self._reader(feed, tables[feed.name]) for feed in feeds]
        self._observation = Observation(
            settings, self.metrics, self._store, self._publisher, self._readers
        )
        if settings.http.listen is not None:
            self._web = WebServer(*settings.http.listen, self._observation)

    def _reader(self, feed: Feed, table: Table) -> FeedReader:
        fields = FieldRules(table.include_fields or None, table.exclude_fields or None)
        opener = partial(
            open_changefeed,
            rethinkdb_server(self._settings),
            feed.name,
            fields,
            watch=self._watchdog.watch(),
        )
        return FeedReader(
            feed.id,
            feed.name,
            lambda queue_size: opener(queue_size=queue_size),
            self._inbox,
            self.metrics,
            queue_size=self._settings.rethinkdb.changefeed_queue_size,
        )

    def _warn_of_equal_routing_keys(self) -> None:
        """Say so when messages of two tables cannot be told apart by their routing keys."""
        by_key: dict[str, list[str]] = {}
        for table in self._settings.tables:
            key = table.routing_key.format(table.database, table.table, Op.UPDATE.value)
            by_key.setdefault(key, []).append(table.name)
        for key, names in by_key.items():
            if len(names) > 1:
                self._log.warning(
                    "tables share a routing key",
                    routing_key=key,
                    tables=names,
                    hint="set tables[].routing_key to {db}.{table}.{op} to tell them apart",
                )

    def _start(self) -> None:
        def worker(name: str, run: Callable[[], None]) -> None:
            self._workers.append(Worker(name, run, self._wake.set))

        worker("store", self._store.run)
        worker("publisher", self._publisher.run)
        worker("watchdog", self._watchdog.run)
        for reader in self._readers:
            worker(f"reader {reader.name}", reader.run)
        if self._web is not None:
            worker("web", self._web.serve_forever)
        self._log.info(
            "starting",
            version=__version__,
            outbox=str(database_path(self._settings.outbox.url)),
            outbox_id=self._store.outbox_id,
            tables=[str(reader.name) for reader in self._readers],
            rethinkdb=self._settings.rethinkdb.safe_url,
            rabbitmq=self._settings.rabbitmq.safe_url,
            http=self._settings.http.listen and ":".join(map(str, self._settings.http.listen)),
        )
        self._warn_of_equal_routing_keys()
        if found := exposures(database_path(self._settings.outbox.url)):
            self._log.warning("the outbox is open to other users", found=found, hint=REMEDY)
        _spare_the_collector()
        for each in self._workers:
            each.thread.start()

    # Supervising.

    def _dead(self) -> Worker | None:
        """Return a worker whose thread ended while the service should run."""
        return next((each for each in self._workers if not each.thread.is_alive()), None)

    def _raise_what_died(self) -> None:
        died = [each for each in self._workers if each.error is not None]
        # A permanent error says best what is wrong; others may only follow from it.
        for each in sorted(died, key=lambda w: not isinstance(w.error, PermanentError)):
            if isinstance(each.error, ReplicatorError):
                raise each.error
            raise WorkerDied(
                f"{each.name} ended: {type(each.error).__name__}: {each.error}",
                hint="this is a defect of the replicator; nothing captured is lost, start it again",
            ) from each.error

    # Stopping.

    def _stop(self) -> None:
        """Stop in the order that the module describes."""
        self._observation.is_stopping = True
        by_name = {each.name: each.thread for each in self._workers}
        self._log.info("stopping")
        reach(FaultPoint.STOP_ASKED)
        # Order matters: a reader that goes on would hand over to a store that takes no more.
        for reader in self._readers:
            reader.stop()
        deadline = time.monotonic() + _JOIN_SECONDS
        for reader in self._readers:
            by_name[f"reader {reader.name}"].join(max(0.0, deadline - time.monotonic()))
        reach(FaultPoint.READERS_STOPPED)
        self._store.stop_handing_over()
        # Order matters: what the readers handed over is committed before the drain, so that as
        # much as possible is confirmed in it.
        self._inbox.close()
        # Without its store, or its connection, waiting would settle nothing.
        is_drained = (
            by_name["store"].is_alive()
            and self._inbox.wait_until_drained(_JOIN_SECONDS)
            and self._publisher.drain(self._settings.drain_timeout.total_seconds())
        )
        if not is_drained:
            self._log.warning(
                "not everything was confirmed, the rest stays in the outbox",
                entries=self._store.status.totals.pending,
            )
        reach(FaultPoint.DRAINED)
        self._publisher.stop()
        by_name["publisher"].join(_JOIN_SECONDS)
        reach(FaultPoint.PUBLISHER_STOPPED)
        # Order matters: the publisher's last outcomes are settled by this last turn of the store.
        self._store.stop()
        by_name["store"].join(_JOIN_SECONDS)
        reach(FaultPoint.STORE_STOPPED)
        self._watchdog.stop()
        if self._web is not None:
            # It waits for its loop; a loop that hangs must not keep the process from ending.
            closing = threading.Thread(target=self._web.shutdown, daemon=True)
            closing.start()
            closing.join(_JOIN_SECONDS)
            self._web.server_close()


def _spare_the_collector() -> None:
    """Let Python's cycle collector look less often: batches are many objects and no cycles.

    At its default it runs after every 700 new objects, which is several times in a batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run_until_signalled(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises:
        ReplicatorError: see `Service.run`.
    """
    arm(os.environ)
    service = Service(settings)

    first_at: list[float] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # `timeout` and some supervisors signal a process and its group: the same order, twice.
        if first_at and time.monotonic() - first_at[0] > _SAME_ORDER_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        first_at.append(time.monotonic())
        service.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    service.run()
