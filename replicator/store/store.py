"""The store: the only writer of the outbox, on a thread of its own.

It takes batches from the readers and outcomes from the publisher, decides what they mean, and
commits both together, so that one commit serves many changes. Then it hands what it committed to
the publisher. When the publisher lags, a bounded number of entries is in memory, and the rest is
read back later.

Invariants:
    - an entry and the index row that describes it are committed together (G2);
    - nothing is handed over before its commit, and nothing is deleted before its confirm (G1);
    - entries are handed over in the order of their numbers (G3).
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from replicator.clock import now_us
from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedState
from replicator.domain.items import TableSettings
from replicator.domain.model import Outcomes, TableName
from replicator.domain.ports import EntrySink
from replicator.errors import OutboxUnavailable, ReplicatorError
from replicator.fault_points import FaultPoint, reach
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.outbox.port import Outbox, Step, Totals
from replicator.retry import Retrying
from replicator.store.books import Books
from replicator.store.capture import Capture, Memory
from replicator.store.handover import Handover
from replicator.store.inbox import Inbox, Work
from replicator.store.orders import Orders, RequestResync
from replicator.store.pausing import OutboxLimits, Pausing
from replicator.store.registering import registered
from replicator.store.sweep import released, sweep

_IDLE_SECONDS: Final = 0.5
_SETTLE_DELAY_SECONDS: Final = 0.05
# While the publisher lags, a commit of its own brings a change to the broker no sooner.
_LINGER_SECONDS: Final = 0.02
_CHECK_EVERY_SECONDS: Final = 1.0
_SMALL_STEP_BYTES: Final = 256 * 1024
_UNKNOWN: Final = -1


class StoreStatus(NamedTuple):
    """The state of the store after its last step; immutable, so any thread may read it."""

    outbox_id: str
    feeds: Mapping[int, Feed]
    totals: Totals
    is_full: bool
    error: str | None
    error_at: int | None
    stepped_at: float  # monotonic seconds


class Store:
    """Owns the outbox while the service runs: `prepare`, `register`, then `run` on its thread."""

    def __init__(
        self,
        outbox: Outbox,
        inbox: Inbox,
        metrics: Metrics,
        *,
        limits: OutboxLimits,
        clock: Callable[[], int] = now_us,
    ) -> None:
        """Bind to an outbox whose lock is held and whose schema is current."""
        self._outbox = outbox
        self._inbox = inbox
        self._metrics = metrics
        self._clock = clock
        self._log = get_logger("store")
        self._memory = Memory({}, {}, last_entry=0, next_row_id=1)
        self._books = Books(metrics)
        self._pausing = Pausing(outbox, limits)
        self._handover = Handover(outbox)
        self._orders = Orders(metrics, self._accept_deletes)
        self._on_found: Callable[[Feed], None] = lambda _feed: None
        # Order matters: the version stays unknown until everything that depends on it is read.
        # Otherwise orders that were given while the service was being built would be missed.
        self._version = _UNKNOWN
        self._checked_at = 0.0
        self._stop = threading.Event()
        self._retry = Retrying(self._stop, note=self._note_failure)
        self.outbox_id = ""
        self._error: str | None = None
        self._error_at: int | None = None
        self.status = self._make_status()

    def prepare(self) -> None:
        """Read what the outbox knows; a new outbox gets its identity.

        Raises:
            OutboxUnavailable, OutboxUnusable: see `Outbox.prepare`.
        """
        found = self._outbox.prepare(self._clock())
        self.outbox_id = found.outbox_id
        self._memory = Memory({}, {}, found.last_entry, found.next_row_id)
        self._books.totals = found.totals
        self._orders.last = found.last_order
        self._handover.require_readable()
        reach(FaultPoint.OUTBOX_IDENTIFIED)

    def register(self, tables: Sequence[TableSettings]) -> list[Feed]:
        """Find or make the feeds of the replicated tables; to be called before `run`."""
        feeds = [self._registered(table) for table in tables]
        by_id = {feed.id: feed for feed in feeds}
        self._memory = self._memory._replace(feeds=by_id, kept=by_id)
        for feed in feeds:
            self._metrics.register_table(str(feed.name))
        self._books.show_feeds(by_id)
        self.status = self._make_status()
        return feeds

    def _registered(self, table: TableSettings) -> Feed:
        return registered(self._outbox, table, self.outbox_id, self._clock())

    def not_dropped(self, databases: Collection[str]) -> list[TableName]:
        """Return the tables of these databases that the outbox knows and that may still exist."""
        return self._outbox.not_dropped(databases)

    def names(self) -> dict[int, TableName]:
        """Return the tables of all feeds that have, or may have, entries."""
        return self._outbox.tables()

    def connect(
        self,
        sink: EntrySink,
        on_found: Callable[[Feed], None] = lambda _feed: None,
        request_resync: RequestResync = lambda _name: False,
    ) -> None:
        """Name what the store's thread calls; to be called before `run`.

        Args:
            sink: the publisher.
            on_found: called with the feed of each new table, after the commit; must not wait.
            request_resync: asks a table's reader for a new snapshot.
        """
        self._handover.connect(sink)
        self._on_found = on_found
        self._orders.request_resync = request_resync

    @property
    def has_handed_over(self) -> bool:
        """Whether the publisher has everything that it gets before the end; any thread may ask."""
        return self._handover.has_ended

    def stop_handing_over(self) -> None:
        """Stop reading entries back for the publisher, which drains; safe to repeat."""
        self._handover.end()

    def stop(self) -> None:
        """End `run` once everything in the inbox is committed; safe to repeat."""
        self._stop.set()
        self._inbox.close()
        self._inbox.poke()

    # The loop.

    def run(self) -> None:
        """Commit what comes in until stopped, then close the outbox.

        After a failure that passes by itself, tries again for ever.

        Raises:
            OutboxUnusable: the database is gone or corrupt, and the process must end.
        """
        try:
            self._commit_until_stopped()
        finally:
            self._outbox.close()

    def _commit_until_stopped(self) -> None:
        while True:
            is_stopping = self._stop.is_set()
            work = self._inbox.gather(
                timeout=0.0 if is_stopping else self._patience(),
                is_hurried=self._handover.has_caught_up,
            )
            self.step(work, self._clock())
            # `is_stopping` was read before the last gathering, so everything reported before `stop`
            # is settled.
            if is_stopping and self._inbox.is_drained:
                break

    def _patience(self) -> float:
        """Return how many seconds the store may wait for work."""
        if self._sweeping() or self._handover.may_refill:
            return 0.0
        if not self._handover.has_caught_up:
            # New entries are published after those that wait already: to wait a moment makes one
            # commit of many.
            return _LINGER_SECONDS
        return _SETTLE_DELAY_SECONDS if self._books.totals.pending else _IDLE_SECONDS

    def step(self, work: Work, now: int) -> None:
        """Commit a share of work and do what follows from it; each part is tried until it works."""
        is_idle = not work and not self._sweeping()
        # Order matters: each part is retried by itself. If the commit were repeated because what
        # follows it failed, every change in it would be captured and numbered twice.
        self._retrying(partial(self._commit_work, work, now), now)
        for feed in self._sweeping():
            self._retrying(partial(self._sweep, feed.id, now), now)
        self._retrying(partial(self.follow_up, is_idle=is_idle), now)

    def _commit_work(self, work: Work, now: int) -> None:
        """Commit a share of work; its outcomes go back to the inbox when that fails."""
        try:
            self.commit(work, now)
        except OutboxUnavailable:
            self._inbox.give_back(work.outcomes)
            work.outcomes.clear()
            raise

    def commit(self, work: Work, now: int) -> None:
        """Commit a share of work, and hand over what it appended.

        Raises:
            OutboxUnavailable: nothing has happened; repeat it with the same work.
        """
        if not work:
            return
        reach(FaultPoint.BEFORE_BEGIN)
        capture = self._capture()
        for item in work.items:
            capture.handle(item)
        self._commit(capture, work.outcomes, now)
        for outcomes in work.outcomes:
            if outcomes.reading:
                self._handover.begin(outcomes.reading)

    def _capture(self) -> Capture:
        return Capture(self._outbox, self._memory, self._registered)

    def _commit(self, capture: Capture, outcomes: Sequence[Outcomes], now: int) -> None:
        started = time.monotonic()
        step = capture.step(outcomes)
        committed = self._outbox.commit(step)
        # Order matters: the commit comes first. If it failed, what is below would be wrong to keep,
        # and a crash could lose what was published before it.
        reach(FaultPoint.COMMITTED, *capture.fault_points)
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        self._memory = capture.memory
        self._handover.committed(capture.entries)
        # Order matters: a change goes to the publisher without waiting for the books.
        self._books.committed(capture, outcomes, committed)
        if not committed.is_as_reported:
            self._version = _UNKNOWN  # an operator was faster: count again
        size = sum(len(entry.body) for entry in capture.entries)
        self._books.show_feeds(self._memory.feeds)
        self._pause_or_resume(now, looks_at_room=size >= _SMALL_STEP_BYTES)
        for text, facts in capture.notes:
            self._log.info(text, **facts)
        for text, facts in capture.warnings:
            self._log.warning(text, **facts)
        for feed in capture.found:
            self._on_found(feed)

    def _sweeping(self) -> list[Feed]:
        """Return the feeds that are being swept for deletes.

        A sweep writes deletes, so it waits while the outbox is full, as the feeds do.
        """
        if self._pausing.is_full:
            return []
        return [
            feed
            for feed in self._memory.feeds.values()
            if feed.snapshot is not None and feed.snapshot.is_read and not feed.snapshot.is_held
        ]

    def _sweep(self, feed_id: int, now: int) -> None:
        """Look for deletes on one page of a feed's part of the index: a commit of its own."""
        feed = self._memory.feeds[feed_id]
        if feed.snapshot is not None and feed.state is not FeedState.PAUSED:
            capture = self._capture()
            sweep(capture, self._outbox, feed, feed.snapshot, now)
            self._commit(capture, (), now)

    def _accept_deletes(self, feed_id: int, found_at: int, deletes: int) -> bool:
        """Let a comparison go on, as far as an operator accepted its deletes; safe to repeat."""
        feed = self._memory.feeds.get(feed_id)
        if feed is None or (after := released(feed, found_at, deletes, self._clock())) is feed:
            return False
        self._memory = self._memory._replace(feeds={**self._memory.feeds, feed_id: after})
        self._pausing.is_saved = False
        self._books.show_feeds(self._memory.feeds)
        return True

    def follow_up(self, *, is_idle: bool) -> None:
        """Do what can wait until after a commit; safe to repeat.

        Raises:
            OutboxUnavailable: it was not done completely.
        """
        self._handover.refill()
        self._look_around()
        if not self._pausing.is_saved:
            self._save_states()
        if is_idle and self._handover.has_caught_up:
            self._outbox.tidy()
        self.status = self._make_status()

    def _look_around(self) -> None:
        """Check once a second what others have changed: the entries, the room, the database."""
        if time.monotonic() - self._checked_at < _CHECK_EVERY_SECONDS:
            return
        self._checked_at = time.monotonic()
        self._outbox.require_in_place()
        self._books.look_at_closed(self._memory.last_entry)
        version = self._outbox.version()
        if version != self._version:
            orders = self._outbox.orders_after(self._orders.last)
            tables = self._outbox.tables() if orders else {}
            self._books.totals = self._outbox.totals()
            if self._orders.hear(orders, tables):
                self._handover.ask_again()
            # Order matters: the version counts as seen only now. If reading fails halfway, all of
            # it must be read again.
            self._version = version
        # Even when nothing was changed: a volume can get room without a commit of ours, and feeds
        # that are paused with nothing left to settle would never go on.
        self._pause_or_resume(self._clock(), looks_at_room=True)

    def _pause_or_resume(self, now: int, *, looks_at_room: bool) -> None:
        totals = self._books.totals
        if not self._pausing.changes(totals, looks_at_room=looks_at_room):
            return
        is_full = self._pausing.is_full
        facts = {"entries": totals.pending + totals.parked, "bytes": totals.bytes}
        if is_full:
            self._log.warning("outbox is full, feeds are paused", **facts)
        else:
            self._log.info("outbox has room, feeds go on", **facts)
        self._memory = self._memory._replace(feeds=self._pausing.applied(self._memory.feeds, now))
        self._inbox.hold(is_held=is_full)
        self._books.show_feeds(self._memory.feeds)

    def _save_states(self) -> None:
        """Save what changed without a commit: commands in other processes show it."""
        feeds = self._memory.feeds
        changed = [(self._memory.kept[feed_id], feed) for feed_id, feed in feeds.items()]
        self._outbox.commit(Step(last_entry=self._memory.last_entry, feeds=changed))
        self._memory = self._memory._replace(kept=feeds)
        self._pausing.is_saved = True

    # Failures that pass by themselves.

    def _retrying(self, action: Callable[[], None], now: int) -> None:
        self._retry.until_done(partial(self._or_settle, action, now))
        if self._error is not None:
            self._log.info("outbox can be written again")
            self._error = self._error_at = None
            self.status = self._make_status()

    def _or_settle(self, action: Callable[[], None], now: int) -> None:
        """Do an action; while it fails, do what makes room and what others ask for."""
        if self._error is not None:
            # Order matters: after a failure, what was reported is settled before anything else. If
            # not even that works, nothing may be handed over: the publisher would run ahead of
            # what is settled, and a restart would send all of it again.
            self._settle(now)
        try:
            action()
        except OutboxUnavailable:
            # Order matters: on a full disk only settling makes room. So it must not wait for the
            # action that finds no room, which is tried again afterwards.
            self._settle(now)
            self._handover.refill()
            self._look_around()
            raise

    def _settle(self, now: int) -> None:
        if outcomes := self._inbox.take_outcomes():
            self._commit_work(Work([], outcomes), now)

    def _note_failure(self, error: ReplicatorError) -> None:
        if self._error is None:
            self._error_at = self._clock()
            self._log.error("outbox cannot be written, retrying", error=str(error))
        self._error = str(error)
        self.status = self._make_status()

    def _make_status(self) -> StoreStatus:
        return StoreStatus(
            self.outbox_id,
            self._memory.feeds,
            self._books.totals,
            self._pausing.is_full,
            self._error,
            self._error_at,
            time.monotonic(),
        )
