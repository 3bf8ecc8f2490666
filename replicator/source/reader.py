"""A reader: one thread that keeps the changefeed of one table open and hands over what it says."""

import threading
import time
from collections.abc import Callable
from typing import Final

from replicator.clock import now_us
from replicator.domain.completeness import Completeness
from replicator.domain.feed_element import Change
from replicator.domain.items import FeedBatch, FeedClosed, FeedItem, FeedOpened, SnapshotRead
from replicator.domain.model import Cause, TableName
from replicator.domain.ports import FeedSink
from replicator.errors import (
    FeedLost,
    FeedOverflowed,
    ReplicatorError,
    ResyncRequested,
    SnapshotStalled,
    SourceUnavailable,
)
from replicator.fault_points import FaultPoint, reach
from replicator.log import WarnOnce, get_logger
from replicator.metrics import Metrics
from replicator.retry import Retrying
from replicator.source.changefeed import Changefeed

_WAIT_SECONDS: Final = 1.0
_PING_AFTER_SECONDS: Final = 10.0
# A gap begins at the last ping, so a busy feed is pinged more often than a quiet one.
_PING_BUSY_SECONDS: Final = 2.0
_PING_ANYWAY_SECONDS: Final = 60.0
_STALL_SECONDS: Final = 15.0
_MAX_STALL_SECONDS: Final = 240.0
_SMALL_BATCH: Final = 1000
_SMALL_BATCH_BYTES: Final = 100_000
_MAX_QUEUE_GROWTH: Final = 8


def _size(changes: list[Change]) -> int:
    return sum(len(change.old_val) + len(change.new_val) for change in changes)


Opener = Callable[[int], Changefeed]
"""Opens the feed with a given queue size."""


class FeedReader:
    """Follows one table for as long as the service runs; `run` is its thread."""

    progressed_at: float
    """When the loop last turned, in monotonic seconds; for the liveness probe."""
    is_waiting_for_store = False
    """Whether a batch waits to be taken: the loop stands still on purpose then."""
    _ping_after = 0.0  # monotonic seconds

    def __init__(
        self,
        feed_id: int,
        name: TableName,
        opener: Opener,
        sink: FeedSink,
        metrics: Metrics,
        *,
        queue_size: int = 100_000,
        is_patient: bool = False,
    ) -> None:
        """Bind to a feed of the outbox; nothing is opened yet.

        Args:
            feed_id: the feed's number in the outbox.
            name: which table.
            opener: opens its feed.
            sink: takes what is read; may wait.
            metrics: where reconnects are counted.
            queue_size: changes that RethinkDB keeps for this reader, to begin with.
            is_patient: retry a permanent error even before the feed was ever open: the service
                must not end because of a table that nobody named.
        """
        self.name = name
        self._feed_id = feed_id
        self._open = opener
        self._sink = sink
        self._metrics = metrics
        self._log = get_logger("reader").bind(table=str(name))
        self._losses = WarnOnce(self._log, "feed is lost, opening it again")
        self._stop, self._resync = threading.Event(), threading.Event()
        self._retrying = Retrying(
            self._stop, note=self._note, is_patient=lambda: self._was_open or is_patient
        )
        self._feed: Changefeed | None = None
        self._was_open = self._is_reported_open = self._is_initializing = False
        self._queue_size, self._max_queue_size = queue_size, _MAX_QUEUE_GROWTH * queue_size
        self._stall_seconds, self._idle_seconds = _STALL_SECONDS, 0.0
        self._completeness = Completeness()
        self.progressed_at = time.monotonic()

    @property
    def is_connected(self) -> bool:
        """Whether the feed is open."""
        return self._feed is not None

    @property
    def complete_at(self) -> int:
        """Up to when everything that happened was read, in microseconds since the epoch."""
        return self._completeness.at

    def stop(self) -> None:
        """End `run` soon, from any thread; safe to repeat."""
        self._stop.set()
        if (feed := self._feed) is not None:
            feed.abort()

    def request_resync(self) -> None:
        """Open the feed again, with a new snapshot; from any thread."""
        self._resync.set()

    def run(self) -> None:
        """Follow the feed until stopped, opening it again whenever it is lost.

        Raises:
            PermanentError: when it occurs before the feed was ever open in this process. Later
                the same error is retried slowly.
        """
        try:
            self._retrying.until_stopped(self._follow)
        finally:
            self._put(FeedClosed(self._feed_id, Cause.START, "", 0, now_us(), self.complete_at))

    def _note(self, err: ReplicatorError) -> None:
        """Report a loss to the store if the feed was open or the error is news."""
        is_news = self._losses.warn(err)
        if not self._is_reported_open and not is_news:
            return
        self._is_reported_open = False
        cause = Cause.DISCONNECT if isinstance(err, SourceUnavailable) else Cause.ABORTED
        if isinstance(err, FeedLost):
            cause = Cause(err.cause)
        skipped = err.skipped if isinstance(err, FeedOverflowed) else 0
        self._put(FeedClosed(self._feed_id, cause, str(err), skipped, now_us(), self.complete_at))

    def _follow(self) -> None:
        """Open the feed and hand over what it says, until it is lost or we are stopped."""
        self.progressed_at = time.monotonic()
        # Order matters: what is asked for from here on is not met by the snapshot that begins now.
        self._resync.clear()
        began_at = now_us()
        with self._open(self._queue_size) as feed:
            self._feed = feed
            try:
                self._begin(feed, began_at)
                while not self._stop.is_set():
                    if self.step(feed) and not self._is_initializing:
                        # It works: the next loss is a new one, with the shortest wait.
                        self._retrying.worked()
                        self._losses.forget()
            except (FeedOverflowed, SnapshotStalled):
                self._queue_size = min(2 * self._queue_size, self._max_queue_size)
                raise
            finally:
                self._feed = None

    def _begin(self, feed: Changefeed, began_at: int) -> None:
        """Report a feed whose opening began then."""
        if self._was_open:
            self._metrics.reconnects.labels("rethinkdb").inc()
        self._was_open = self._is_reported_open = self._is_initializing = True
        self._idle_seconds = 0.0
        self._completeness.opened(began_at)
        self._ping_after = time.monotonic() + _PING_BUSY_SECONDS
        self._log.info("feed is open, comparing its snapshot", host=feed.host)
        self._put(FeedOpened(self._feed_id, feed.table_id, feed.primary_key, now_us()))

    def step(self, feed: Changefeed) -> bool:
        """Read once and hand over. Returns whether the server was heard.

        Raises:
            FeedLost: the feed has to be opened again.
        """
        self.progressed_at = time.monotonic()
        if self._resync.is_set():
            self._resync.clear()
            raise ResyncRequested(f"a resync of {self.name} was asked for")
        began_at = now_us()
        elements = feed.read(_WAIT_SECONDS)
        if not elements:
            return self._idle(feed)
        self._idle_seconds = 0.0
        reach(FaultPoint.BATCH_READ)
        is_small = len(elements) <= _SMALL_BATCH and _size(elements) <= _SMALL_BATCH_BYTES
        self._hand_over(elements, began_at, is_small=is_small)
        # Not soon after a large batch: a slow link may take longer for the next one than the answer
        # may take.
        late_seconds = time.monotonic() - self._ping_after
        if late_seconds >= (0.0 if is_small else _PING_ANYWAY_SECONDS):
            self._ping(feed)
        return True

    def _idle(self, feed: Changefeed) -> bool:
        """Count turns, not time: a process that was stopped has not waited for its server."""
        self._idle_seconds += _WAIT_SECONDS
        if self._is_initializing and self._idle_seconds >= self._stall_seconds:
            self._stall_seconds = min(2 * self._stall_seconds, _MAX_STALL_SECONDS)
            raise SnapshotStalled(f"the snapshot of {self.name} went quiet before it was complete")
        if self._idle_seconds % _PING_AFTER_SECONDS:
            return False
        self._ping(feed)
        return True

    def _ping(self, feed: Changefeed) -> None:
        """Have a majority of the replicas of each shard answer, even if the feed is busy.

        Its server may be cut off from the majority of one shard, which is then silent, while
        others go on.
        """
        began_at = now_us()
        is_quiet = feed.ping()
        self._completeness.pinged(began_at, is_everything=is_quiet and not self._is_initializing)
        self._ping_after = time.monotonic() + _PING_BUSY_SECONDS

    def _hand_over(self, elements: list[Change], began_at: int, *, is_small: bool) -> None:
        at = now_us()
        start = 0
        for position, element in enumerate(elements):
            if not element.state:
                continue
            self._put_batch(elements[start:position], at)
            start = position + 1
            if element.state == "ready":
                self._is_initializing = False
                self._stall_seconds = _STALL_SECONDS
                self._put(SnapshotRead(self._feed_id, at, self.complete_at))
        # Order matters: the last part says that everything was handed over, the others must not.
        # Nor does anything before ``ready``: a server that overflows during the snapshot says so
        # late or never, so that elements can lack what came before them.
        is_everything = is_small and not self._is_initializing
        self._completeness.read(began_at, is_everything=is_everything)
        self._put_batch(elements[start:] if start else elements, at)

    def _put_batch(self, changes: list[Change], at: int) -> None:
        if changes:
            batch = FeedBatch(self._feed_id, changes, _size(changes), at, self.complete_at)
            self._put(batch)

    def _put(self, item: FeedItem) -> None:
        self.is_waiting_for_store = True
        try:
            if not self._sink.put(item):
                self._stop.set()
        finally:
            self.is_waiting_for_store = False
            self.progressed_at = time.monotonic()
