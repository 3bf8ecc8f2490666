"""The composition root: builds the parts, starts them, watches them, stops them in order.

Threads: one reader per table, discovery where whole databases are followed, the store, the
publisher, the watchdog, the HTTP server. A thread that dies ends the process, with an exit status
that says why; a supervisor starts it again.

Stop order, and why:
    1. discovery and the readers, so that nothing new comes in;
    2. the store commits what they handed over, and hands nothing more to the publisher;
    3. the publisher waits for confirms, for at most ``drain_timeout``;
    4. the store settles what was confirmed, and ends;
    5. the lock of the outbox goes last.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from replicator import __version__
from replicator.composition import Worker, publication, rabbitmq_broker
from replicator.config import Settings
from replicator.descriptors import raise_limit
from replicator.domain.feed import Feed
from replicator.domain.routing import HINT_OF_SHARED_KEYS
from replicator.errors import PermanentError, ReplicatorError, WorkerDied
from replicator.fault_points import FaultPoint, arm, reach
from replicator.following import Following
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.observation import Observation
from replicator.outbox.opening import open_database
from replicator.outbox.port import Outbox
from replicator.publisher.publisher import Publisher
from replicator.store.inbox import Inbox
from replicator.store.pausing import OutboxLimits
from replicator.store.store import Store
from replicator.web.server import WebServer

_JOIN_SECONDS: Final = 5.0
_SAME_ORDER_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5
_DRAIN_LOOK_SECONDS: Final = 0.02


class Service:
    """One running replicator: `run` starts it, waits and stops it."""

    def __init__(self, settings: Settings) -> None:
        """Bind to settings; nothing is opened yet."""
        self._settings = settings
        self._log = get_logger("service")
        self._database = open_database(settings.outbox.url)
        self.metrics: Final = Metrics()
        self._wake = threading.Event()
        self._stop_requested = False
        self._workers: list[Worker] = []
        self._inbox = Inbox()
        self._following = Following(settings, self._inbox, self.metrics, self._wake.set)
        self._web: WebServer | None = None

    def request_stop(self) -> None:
        """Let `run` stop everything and return; from any thread; safe to repeat."""
        self._stop_requested = True
        self._wake.set()

    def run(self) -> None:
        """Run until stopped.

        Raises:
            PermanentError: a setting, a permission or the outbox is wrong: exit status 2.
            ReplicatorError: a part ended that must not end: exit status 1.
        """
        raise_limit()
        with self._database.exclusively():
            self._build()
            self._start()
            try:
                while not self._stop_requested and not self._dead():
                    # Race: the kernel may give a signal to any thread (it does so just after a
                    # SIGCONT), and Python's handler runs when this thread runs again.
                    self._wake.wait(_LOOK_SECONDS)
                    self._wake.clear()
            finally:
                self._stop()
            self._raise_what_died()
        self._log.info("stopped")

    # Building.

    def _build(self) -> None:
        before, after = self._database.upgrade(create=True)
        if before != after:
            self._log.info("outbox schema is up to date", before=before, now=after)
        outbox = self._database.outbox()
        try:
            self._build_on(outbox)
        except BaseException:
            outbox.close()  # the store's thread, which closes it at its end, never starts
            raise

    def _build_on(self, outbox: Outbox) -> None:
        settings = self._settings
        limits = OutboxLimits(settings.outbox.max_entries, settings.outbox.max_bytes)
        self._store = Store(outbox, self._inbox, self.metrics, limits=limits)
        self._store.prepare()
        known = self._store.not_dropped(settings.databases)
        named = self._following.named()
        feeds = self._store.register([*named, *self._following.remembered(known)])
        self._following.discover(known)
        self._publisher = self._connected_publisher()
        by_name = {table.name for table in named}
        for feed in feeds:
            if feed.name in by_name:
                self._following.follow(feed)
        self._observation = Observation(
            settings, self.metrics, self._store, self._publisher, self._following
        )
        if settings.http.listen is not None:
            self._web = WebServer(*settings.http.listen, self._observation)

    def _connected_publisher(self) -> Publisher:
        """Build the publisher, and let it and the store know each other."""
        names = self._store.names()
        publisher = Publisher(
            rabbitmq_broker(self._settings),
            publication(self._settings),
            outbox_id=self._store.outbox_id,
            names=names,
            report=self._inbox.report,
            metrics=self.metrics,
        )

        def on_found(feed: Feed) -> None:
            # Order matters: the publisher must know the name before it gets an entry to publish.
            names[feed.id] = feed.name
            self._following.follow(feed)

        self._store.connect(publisher, on_found, self._following.request_resync)
        return publisher

    def _warn_of_equal_routing_keys(self) -> None:
        """Log a warning for tables whose messages have the same routing keys."""
        for key, names in self._settings.shared_keys:
            self._log.warning(
                "tables can share a routing key",
                routing_key=key,
                tables=list(map(str, names)),
                hint=HINT_OF_SHARED_KEYS,
            )

    def _start(self) -> None:
        def worker(name: str, run: Callable[[], None]) -> None:
            self._workers.append(Worker(name, run, self._wake.set))

        worker("store", self._store.run)
        worker("publisher", self._publisher.run)
        worker("watchdog", self._following.watchdog.run)
        if self._web is not None:
            worker("web", self._web.run)
        self._log.info(
            "starting",
            version=__version__,
            outbox=self._database.place,
            outbox_id=self._store.outbox_id,
            tables=[table.name for table in self._settings.tables],
            rethinkdb=str(self._settings.rethinkdb.url),
            rabbitmq=str(self._settings.rabbitmq.url),
            http=self._settings.http.listen and ":".join(map(str, self._settings.http.listen)),
        )
        self._warn_of_equal_routing_keys()
        if (exposure := self._database.exposure()) is not None:
            self._log.warning(
                "the outbox is open to other users", found=exposure.found, hint=exposure.remedy
            )
        _spare_the_collector()
        for each in self._workers:
            each.thread.start()
        self._following.start()

    # Supervising.

    def _dead(self) -> Worker | None:
        """Return a worker whose thread has ended although the service should run."""
        workers = [*self._workers, *self._following.workers()]
        return next((each for each in workers if not each.thread.is_alive()), None)

    def _raise_what_died(self) -> None:
        workers = [*self._workers, *self._following.workers()]
        died = [each for each in workers if each.error is not None]
        # A permanent error names the cause best; others may only follow from it.
        for each in sorted(died, key=lambda w: not isinstance(w.error, PermanentError)):
            if isinstance(each.error, ReplicatorError):
                raise each.error
            raise WorkerDied(
                f"{each.name} ended: {type(each.error).__name__}: {each.error}",
                hint="this is a defect of the replicator; nothing captured is lost, start it again",
            ) from each.error

    # Stopping.

    def _stop(self) -> None:
        """Stop everything in the order that the module's docstring describes."""
        self._observation.is_stopping = True
        by_name = {each.name: each.thread for each in self._workers}
        self._log.info("stopping")
        reach(FaultPoint.STOP_ASKED)
        # Order matters: a reader that goes on would hand changes to a store that accepts no more.
        self._following.stop(_JOIN_SECONDS)
        reach(FaultPoint.READERS_STOPPED)
        self._store.stop_handing_over()
        # Order matters: what the readers handed over is committed before the drain, so that as
        # much as possible is confirmed in it.
        self._inbox.close()
        # Without its store, or its connection, waiting would settle nothing.
        is_drained = (
            by_name["store"].is_alive()
            and self._inbox.wait_until_drained(_JOIN_SECONDS)
            and self._drained(self._settings.drain_timeout.total_seconds())
        )
        if not is_drained and self._store.status.totals.pending:
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
        self._following.watchdog.stop()
        if self._web is not None:
            self._web.shut_down()
            by_name["web"].join(_JOIN_SECONDS)

    def _drained(self, seconds: float) -> bool:
        """Wait until what was captured is handed over and confirmed. Returns whether it is."""
        deadline = time.monotonic() + seconds
        while not self._store.has_handed_over and self._publisher.status().is_connected:
            if time.monotonic() > deadline:
                return False
            time.sleep(_DRAIN_LOOK_SECONDS)
        return self._publisher.drain(max(0.0, deadline - time.monotonic()))


def _spare_the_collector() -> None:
    """Run Python's cycle collector less often: batches are many objects without cycles.

    By default it runs after every 700 new objects, which is several times in a batch.
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
        # `timeout` and some supervisors signal a process and its group: one order, sent twice.
        if first_at and time.monotonic() - first_at[0] > _SAME_ORDER_SECONDS:
            # Not by the signal's default action: process 1 of a container has none.
            os._exit(128 + number)
        first_at.append(time.monotonic())
        service.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    service.run()
