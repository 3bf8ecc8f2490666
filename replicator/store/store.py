"""The store: the only writer of the outbox, with a thread of its own.

It takes batches from the readers and outcomes from the publisher and commits them together, so
that one fsync serves many changes. What is committed is handed to the publisher; when the
publisher is behind, memory holds a bounded number and the rest is read back in order.

A step is done by whoever has the store's turn: its own thread, or, while that waits for work, a
reader that has some and to which it lends it (`Inbox.put`).

Invariants:
    - an entry and the index row that describes it are committed together (G2);
    - nothing is handed over before its commit, and nothing is deleted before its confirm (G1);
    - entries are handed over in the order of their numbers, each once per process (G3).
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import tenacity
from sqlalchemy import Connection, Engine

from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedState
from replicator.domain.items import TableSettings
from replicator.domain.model import Entry, Outcomes, TableName
from replicator.domain.ports import EntrySink
from replicator.domain.retry import OUTBOX
from replicator.errors import OutboxUnavailable, ReplicatorError
from replicator.fault_points import FaultPoint, reach
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.outbox.sqlite import entries, feeds, index, statements
from replicator.outbox.sqlite.connection import data_version, give_back_space, translated
from replicator.outbox.sqlite.entries import Totals
from replicator.outbox.sqlite.identity import SameFile, load_or_create, save_last_entry
from replicator.store.capture import Capture
from replicator.store.inbox import Inbox, Work
from replicator.store.orders import RequestResync, Requests
from replicator.store.pausing import Limits, is_disk_low, paused, resumed
from replicator.store.registering import registered
from replicator.store.series import ClosedTables

_PAGE_ENTRIES: Final = 2000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_IDLE_SECONDS: Final = 0.5
_SETTLE_DELAY_SECONDS: Final = 0.05
# While the publisher is behind, a commit of its own brings a change no sooner to the broker.
_LINGER_SECONDS: Final = 0.02
_CHECK_EVERY_SECONDS: Final = 1.0
_VACUUM_PAGES: Final = 512
# To ask for the room on the volume takes as long as a statement: a step as small as this leaves it
# to the look of each second.
_SMALL_STEP_BYTES: Final = 256 * 1024
_UNKNOWN: Final = -1


class StoreStatus(NamedTuple):
    """What the store was like after its last step; an immutable value, any thread may read it."""

    outbox_id: str
    feeds: Mapping[int, Feed]
    totals: Totals
    is_full: bool
    error: str | None
    error_at: int | None
    stepped_at: float  # monotonic seconds


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


class Store:
    """Owns the outbox while the service runs. `prepare`, `register`, then `run` on its thread."""

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        metrics: Metrics,
        *,
        limits: Limits,
        clock: Callable[[], int] = now_us,
    ) -> None:
        """Bind to an outbox whose lock is held and whose schema is current."""
        self._engine = engine
        self._path = Path(engine.url.database or "")
        self._inbox = inbox
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._log = get_logger("store")
        self._sink: EntrySink | None = None
        self._on_found: Callable[[Feed], None] = lambda _feed: None
        self._feeds: dict[int, Feed] = {}
        self._last_number = 0
        self._next_row_id = 1
        self._totals = Totals(0, 0, 0, None)
        self._handed_over = 0
        self._oldest: tuple[int, int] | None = None
        self._oldest_floor = 0  # nothing pending is below; 0 for unknown
        self._has_caught_up = False
        self._is_full = False
        self._is_disk_low = False
        self._shown_states: dict[int, FeedState] = {}
        self._has_unsaved_states = False
        # Order matters: unknown until it was looked at with everything that depends on it. What a
        # command did while the service was being built would else go unheard.
        self._data_version = _UNKNOWN
        self._same_file = SameFile(self._path)
        self._checked_at = 0.0
        self._has_free_pages = True
        self._stop = threading.Event()
        # Made once: to make it takes as long as a small step.
        self._retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OutboxUnavailable),
            wait=OUTBOX.wait(),
            sleep=tenacity.sleep_using_event(self._stop),
            stop=tenacity.stop_when_event_set(self._stop),
            before_sleep=self._note_failure,
            reraise=True,
        )
        self._is_handing_over = True
        self._requests = Requests(metrics)
        self._closed = ClosedTables(metrics)
        metrics.outbox_entries.labels("pending").set_function(lambda: self._totals.pending)
        metrics.outbox_entries.labels("parked").set_function(lambda: self._totals.parked)
        metrics.outbox_bytes.set_function(lambda: self._totals.bytes)
        self.outbox_id = ""
        self._error: str | None = None
        self._error_at: int | None = None
        self.status = self._make_status()

    def prepare(self) -> None:
        """Read what the outbox knows, making its identity when it is new.

        Raises:
            OutboxUnavailable, OutboxUnusable: see `translated`.
        """
        with translated(self._path), self._engine.begin() as connection:
            self.outbox_id, self._last_number = load_or_create(connection, self._clock())
            self._next_row_id = index.next_row_id(connection)
            self._totals = entries.totals(connection)
            entries.require_whole(connection, self._last_number)
            self._requests.begin(connection)
        reach(FaultPoint.OUTBOX_IDENTIFIED)

    def register(self, tables: Sequence[TableSettings]) -> list[Feed]:
        """Make or find the feeds of the tables that are replicated; before `run`.

        Says so when the fields of a table changed, since that changes every digest.
        """
        with translated(self._path), self._engine.begin() as connection:
            for table in tables:
                feed = registered(connection, table, self.outbox_id, self._clock())
                self._feeds[feed.id] = feed
                self._metrics.register_table(str(table.name))
        self.status = self._make_status()
        return list(self._feeds.values())

    def not_dropped(self, databases: Collection[str]) -> list[TableName]:
        """Return the tables of these databases that the outbox knows and that may be there."""
        with translated(self._path), self._engine.begin() as connection:
            return feeds.not_dropped(connection, databases)

    def names(self) -> dict[int, TableName]:
        """Return the tables of all feeds that have, or may have, entries."""
        with translated(self._path), self._engine.begin() as connection:
            return feeds.names(connection)

    def connect(
        self, sink: EntrySink, on_found: Callable[[Feed], None] = lambda _feed: None
    ) -> None:
        """Name who publishes, and who is told of the feed of each table found; before `run`.

        ``on_found`` is called on this thread, after the commit; it must not wait.
        """
        self._sink = sink
        self._on_found = on_found

    def on_resync(self, request_resync: RequestResync) -> None:
        """Name who is asked when an operator wants a resync; before `run`."""
        self._requests.request_resync = request_resync

    def stop_handing_over(self) -> None:
        """Read nothing more back for the publisher, which drains; safe to repeat."""
        self._is_handing_over = False

    def stop(self) -> None:
        """End `run` once everything that was handed in is committed; safe to repeat."""
        self._stop.set()
        self._inbox.close()
        self._inbox.poke()

    # The loop.

    def run(self) -> None:
        """Commit what comes in until stopped; retries for ever what passes by itself.

        Raises:
            OutboxUnusable: the database is gone or corrupt: the process must end.
        """
        with self._connected() as connection, translated(self._path):
            self._inbox.lend_turns(lambda work: self._step_elsewhere(connection, work))
            while True:
                is_stopping = self._stop.is_set()
                work = self._inbox.gather(
                    timeout=0.0 if is_stopping else self._patience(),
                    is_hurried=self._has_caught_up,
                )
                self.step(connection, work, self._clock())
                # Read before the last gathering: what was reported before `stop` is settled.
                if is_stopping and self._inbox.is_drained:
                    break

    def _step_elsewhere(self, connection: Connection, work: Work) -> bool:
        """Do a step on the thread of a reader, to which this one has lent its turn.

        Returns whether it is done.
        """
        try:
            self.commit(connection, work, self._clock())
        except ReplicatorError:
            # It was rolled back. This thread does it again, and knows when to wait and to give up.
            return False
        self.status = self._make_status()
        self._inbox.expect(within=self._patience(), is_hurried=self._has_caught_up)
        return True

    def _patience(self) -> float:
        """Return for how many seconds nothing has to be done unless something comes."""
        if self._is_sweeping() or self._may_refill() or self._has_unsaved_states:
            return 0.0
        if not self._has_caught_up:
            # What comes now goes behind what waits already: a moment makes one commit of many.
            return _LINGER_SECONDS
        return _SETTLE_DELAY_SECONDS if self._totals.pending else _IDLE_SECONDS

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Open the outbox; on a full disk SQLite cannot even do that, and it passes."""
        opened: list[Connection] = []

        def connect() -> None:
            with translated(self._path):
                opened.append(self._engine.connect())

        self._retrying(connect)
        with opened[0] as connection:
            yield connection

    def step(self, connection: Connection, work: Work, now: int) -> None:
        """Do one transaction and what follows from it; each is tried until it is done."""
        waiting = work
        is_idle = not work and not self._is_sweeping()

        def commit() -> None:
            nonlocal waiting
            try:
                self.commit(connection, waiting, now)
            except OutboxUnavailable:
                # Order matters: a disk that is full gets room only from what is settled, and
                # that must not wait for the captures, for which there is no room.
                outcomes = [*waiting.outcomes, *self._inbox.take_outcomes()]
                waiting = Work(waiting.items, outcomes)
                self.commit(connection, Work([], outcomes), now, is_settling_only=True)
                waiting = Work(waiting.items, [])
                self._hand_over(connection)
                raise

        # Order matters: each is retried by itself. If the transaction were done again because
        # what follows it failed, every change in it would be captured and numbered twice.
        self._retrying(commit)
        self._retrying(lambda: self.follow_up(connection, is_idle=is_idle))

    def _retrying(self, action: Callable[[], None]) -> None:
        try:
            # By itself the first time: what tenacity does around it takes as long as a statement.
            action()
        except OutboxUnavailable as err:
            failures = [err]

            def again() -> None:
                if failures:
                    raise failures.pop()
                action()

            self._retry(again)
        if self._error is not None:
            self._log.info("outbox can be written again")
            self._error = self._error_at = None
            self.status = self._make_status()

    def _note_failure(self, attempt: tenacity.RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        if self._error is None:
            self._error_at = self._clock()
            self._log.error("outbox cannot be written, retrying", error=str(error))
        self._error = str(error)
        self.status = self._make_status()

    def commit(
        self, connection: Connection, work: Work, now: int, *, is_settling_only: bool = False
    ) -> None:
        """Commit a step's work in one transaction, and hand over what it appended.

        With ``is_settling_only`` no sweep is done either, so that nothing is appended.

        Raises:
            OutboxUnavailable: nothing has happened; do it again with the same work.
        """
        if not work and not self._is_sweeping():
            return
        reach(FaultPoint.BEFORE_BEGIN)
        started = time.monotonic()
        with translated(self._path), statements.Transaction(connection):
            capture = Capture(
                connection,
                self._feeds,
                last_number=self._last_number,
                next_row_id=self._next_row_id,
                register=lambda table: registered(connection, table, self.outbox_id, now),
            )
            for item in work.items:
                capture.handle(item)
            if not is_settling_only:
                self._sweep(capture, now)
            entries.append(connection, capture.new_entries)
            if capture.last_number != self._last_number:
                save_last_entry(connection, capture.last_number)
            is_as_reported = entries.take_reports(connection, work.outcomes)
            oldest = self._oldest_after(connection, work, capture)
            reach(FaultPoint.BEFORE_COMMIT)
        # Order matters: the commit is above. What is below this line would be wrong to keep if
        # the transaction failed, and what is published before it could be lost by a crash.
        reach(FaultPoint.COMMITTED, *capture.fault_points)
        if work.outcomes and self._sink is not None:
            self._sink.committed(len(work.outcomes))
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        self._feeds = capture.feeds
        self._last_number = capture.last_number
        self._next_row_id = capture.next_row_id
        if not is_as_reported:
            self._data_version = _UNKNOWN  # an operator was faster: count again
        self._oldest = oldest
        self._oldest_floor = oldest[0] if oldest is not None else capture.last_number
        if self._has_caught_up and capture.new_entries:
            if self._sink is not None and self._sink.room >= len(capture.new_entries):
                self._sink.offer(capture.new_entries)
                self._handed_over = capture.new_entries[-1].number
                reach(FaultPoint.HANDED_OVER)
            else:
                self._has_caught_up = False
        # Order matters: a change that is on its way does not wait for the books.
        self._count(capture, work.outcomes, oldest[1] if oldest is not None else None)
        self._tell(capture)

    def _oldest_after(
        self, connection: Connection, work: Work, capture: Capture
    ) -> tuple[int, int] | None:
        """Return number and instant of the oldest pending entry; asks only where it may be new."""
        if work.outcomes or not self._oldest_floor:
            return entries.oldest_pending(connection, self._oldest_floor)
        if self._oldest is None and capture.new_entries:
            return capture.new_entries[0].number, capture.new_entries[0].captured_at
        return self._oldest

    def follow_up(self, connection: Connection, *, is_idle: bool) -> None:
        """Do what can wait until after a commit; safe to repeat.

        Raises:
            OutboxUnavailable: it was not done to its end.
        """
        self._hand_over(connection)
        self._notice_commands(connection)
        if self._has_unsaved_states:
            with translated(self._path), statements.Transaction(connection):
                for feed in self._feeds.values():
                    feeds.save(connection, feed.id, state=feed.state.value)
            self._has_unsaved_states = False
        if is_idle and self._has_free_pages and self._has_caught_up:
            with translated(self._path), statements.Transaction(connection):
                self._has_free_pages = give_back_space(connection, _VACUUM_PAGES) > 0
        self.status = self._make_status()

    def _sweep(self, capture: Capture, now: int) -> None:
        for feed_id, feed in self._feeds.items():
            # A sweep writes deletes: it waits, like the feeds, while the outbox is full.
            is_waiting = feed.state is FeedState.PAUSED or (feed.is_dropped and self._is_full)
            if not is_waiting:
                capture.sweep(feed_id, now)

    def _tell(self, capture: Capture) -> None:
        for text, facts in capture.notes:
            self._log.info(text, **facts)
        for feed in capture.found:
            self._on_found(feed)

    def _count(self, capture: Capture, reports: Sequence[Outcomes], oldest: int | None) -> None:
        """Bring metrics, totals and the limit up to date with what was committed."""
        metrics = self._metrics
        for feed in capture.found:
            self._closed.found(str(feed.name))
            self._shown_states = {}  # its series begin anew, also where its feed stays as it is
        for feed in capture.dropped:
            self._closed.closed(str(feed.name), capture.last_number)
        counters: dict[str, Any] = {
            "captured": metrics.changes_captured,
            "repairs": metrics.resync_repairs,
            "resyncs": metrics.resyncs,
            "gaps": metrics.gaps,
            "skipped": metrics.changes_skipped,
            "compared": metrics.snapshot_documents,
        }
        for (name, *labels), count in capture.tally.items():
            counters[name].labels(*labels).inc(count)
        new: list[Entry] = capture.new_entries
        added = sum(len(entry.body) for entry in new)
        settled = sum(len(outcomes.settled) for outcomes in reports)
        parked = sum(len(outcomes.parked) for outcomes in reports)
        for outcomes in reports:
            reach(FaultPoint.SETTLED)
            for failure in outcomes.parked:
                metrics.entries_parked.labels(failure.reason).inc()
        self._totals = Totals(
            pending=self._totals.pending + len(new) - settled - parked,
            parked=self._totals.parked + parked,
            bytes=self._totals.bytes + added - sum(outcomes.settled_bytes for outcomes in reports),
            oldest_captured_at=oldest,
        )
        self._has_free_pages = self._has_free_pages or settled > 0
        self._show_states()
        self._pause_or_resume(is_small=added < _SMALL_STEP_BYTES)

    def _show_states(self) -> None:
        states = {feed_id: feed.state for feed_id, feed in self._feeds.items()}
        if states == self._shown_states:
            return
        self._shown_states = states
        for feed in self._feeds.values():
            self._metrics.set_feed_state(str(feed.name), feed.state)

    def _pause_or_resume(self, *, is_small: bool = False) -> None:
        was_full = self._is_full
        if not is_small:
            self._is_disk_low = is_disk_low(self._path.parent, was_full=was_full)
        is_full = self._is_disk_low or self._limits.is_full(self._totals, was_full=was_full)
        if is_full == self._is_full:
            return
        self._is_full = is_full
        facts = {
            "entries": self._totals.pending + self._totals.parked,
            "bytes": self._totals.bytes,
        }
        if is_full:
            self._log.warning("outbox is full, feeds are paused", **facts)
        else:
            self._log.info("outbox has room, feeds go on", **facts)
        change = paused if is_full else resumed
        self._feeds = {feed.id: change(feed, self._clock()) for feed in self._feeds.values()}
        self._has_unsaved_states = True
        self._inbox.hold(is_held=is_full)
        self._show_states()

    def _is_sweeping(self) -> bool:
        return any(
            feed.snapshot is not None and feed.snapshot.is_read and not self._is_full
            for feed in self._feeds.values()
        )

    # To the publisher.

    def _may_refill(self) -> bool:
        return (
            (not self._has_caught_up or self._requests.has_redriven)
            and self._sink is not None
            and self._sink.room >= _PAGE_ENTRIES
            and self._is_handing_over
        )

    def _hand_over(self, connection: Connection) -> None:
        """Read entries back for a publisher that has room and was behind."""
        if not self._may_refill() or self._sink is None:
            return
        if self._requests.has_redriven:
            with translated(self._path), statements.Transaction(connection):
                redriven = self._requests.next_redriven(
                    connection, most=_PAGE_ENTRIES, most_bytes=_PAGE_BYTES
                )
            self._sink.readmit(redriven.entries)
            self._requests.redriven_handed_over(redriven)
            return
        with translated(self._path), statements.Transaction(connection):
            # Order matters: orders are heard in the transaction that reads. What was redriven
            # before it is behind us, or in this page; heard later, it would be published twice.
            heard = self._requests.hear(connection)
            page = entries.page(
                connection, after=self._handed_over, most=_PAGE_ENTRIES, most_bytes=_PAGE_BYTES
            )
        self._requests.follow(heard, self._sink, self._handed_over)
        if page.entries:
            self._sink.offer(page.entries)
            self._handed_over = page.entries[-1].number
            reach(FaultPoint.READ_BACK)
        if page.is_last:
            # What is not pending was not handed over either, and may have the highest numbers.
            self._handed_over = self._last_number
        # Race: none. Only this thread commits entries, so when a page was the last, everything
        # committed so far is handed over, and what comes next can go through memory.
        self._has_caught_up = page.is_last

    def _notice_commands(self, connection: Connection) -> None:
        """See, now and then, what changed from outside: the entries, the room on the volume."""
        if time.monotonic() - self._checked_at < _CHECK_EVERY_SECONDS:
            return
        self._checked_at = time.monotonic()
        self._same_file.require()
        none_pending = self._last_number + 1
        self._closed.look(self._oldest_floor if self._totals.pending else none_pending)
        heard = None
        with translated(self._path), statements.Transaction(connection):
            version = data_version(connection)
            if version != self._data_version:
                heard = self._requests.hear(connection)
                totals = entries.totals(connection)
        if heard is not None:
            # Order matters: what was read counts as seen only now. If the transaction fails in its
            # very end, it has to be read again.
            self._data_version = version
            self._totals = totals
            self._oldest_floor = 0  # an entry may have been redriven
            self._requests.follow(heard, self._sink, self._handed_over)
        # Also when nothing was changed: a volume gets room without a commit of ours, and feeds
        # that are paused with nothing left to settle would never go on.
        self._pause_or_resume()

    def _make_status(self) -> StoreStatus:
        return StoreStatus(
            self.outbox_id,
            self._feeds,
            self._totals,
            self._is_full,
            self._error,
            self._error_at,
            time.monotonic(),
        )
