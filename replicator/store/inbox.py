"""What waits for the store: batches of the readers, outcomes of the publisher.

The readers' side is bounded in bytes: when the disk is slow, or the outbox is full, a reader
waits here, its changefeed is not read, and memory does not grow (promise G5). The publisher's
side never waits: what it hands over is bounded by its window.

While the store has nothing to do, it lends its turn: whoever hands a small batch over does the step
itself. Two threads that wake each other up for one change cost more time than the step does
(docs/performance.md). Under load, when the store is busy, batches queue up for its own thread, and
go with one commit.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from replicator.domain.items import FeedBatch, Item
from replicator.domain.model import Outcomes

_MOST_BYTES: Final = 4 * 1024 * 1024
_MOST_BYTES_A_STEP: Final = 2 * 1024 * 1024
# Settled entries may wait a moment for a commit that has to be made anyway: to lose one in a
# crash only means that its message is sent twice.
_MOST_SETTLED: Final = 2000
# Beside changes they go with one commit in so many: deleting a row costs about as much as adding
# it, and it is the change that somebody waits for.
_STEPS_WITHOUT_SETTLING: Final = 7
# Behind a larger one there is mostly more, and it is worth a commit together.
_SMALL_BATCH_BYTES: Final = 64 * 1024
# What comes behind a backlog is in no hurry. A reader that waits a moment asks its server less
# often, which makes one answer of many, and leaves the processors to what drains the backlog.
_BEHIND_SECONDS: Final = 0.02
# However many steps others do for it, the store itself looks around as often as this.
_MOST_SECONDS_LENT: Final = 0.5


class Work(NamedTuple):
    """What one step of the store does."""

    items: Sequence[Item]
    outcomes: list[Outcomes]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.items or self.outcomes)


def _size(item: Item) -> int:
    return item.size if isinstance(item, FeedBatch) else 0


class Inbox:
    """A bounded queue for many readers and the publisher on one side, the store on the other."""

    def __init__(self) -> None:
        """Start empty and open."""
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        # Many readers may wait for it, and are not woken up by each batch of another.
        self._hurries = threading.Condition(lock)
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._outcomes: list[Outcomes] = []
        self._settled = 0
        self._steps_without_settling = 0
        self._is_closed = False
        self._is_held = False
        self._is_poked = False
        self._is_hurried = True
        self._is_worked_on = False
        self._step: Callable[[Work], bool] | None = None
        self._deadline = 0.0
        self._gathering_since = 0.0
        self._is_waiting = False
        self._is_lent = False

    def lend_turns(self, step: Callable[[Work], bool]) -> None:
        """Let threads that put an item do its step while the store waits for work.

        ``step`` is never called by two threads at once, nor while the store works on what it has
        gathered. It returns whether the work is done: if not, the store gathers it.
        """
        self._step = step

    def put(self, item: Item) -> bool:
        """Hand an item over; waits while the queue is full. False when it is closed.

        The step is done before it returns, if the store has lent its turn. While a backlog waits
        for the publisher, it returns a moment later.
        """
        if self._step_here(item):
            return True
        size = _size(item)
        with self._changed:
            while not self._is_closed and self._bytes >= _MOST_BYTES:
                self._changed.wait()
            if self._is_closed:
                return False
            self._items.append(item)
            self._bytes += size
            if self._is_enough() and not self._is_lent:
                self._changed.notify_all()
            if isinstance(item, FeedBatch) and size <= _SMALL_BATCH_BYTES:
                self._hurries.wait_for(self._is_hurrying, _BEHIND_SECONDS)
            return True

    def _is_hurrying(self) -> bool:
        return self._is_hurried or self._is_closed

    def _step_here(self, item: Item) -> bool:
        """Do the step of an item here if it is small and the store lends its turn; whether so."""
        step = self._step
        if step is None or not isinstance(item, FeedBatch) or item.size > _SMALL_BATCH_BYTES:
            return False
        work = self._borrow(item)
        if work is None:
            return False
        # After a defect, too: what it has committed must not be done again.
        is_done = True
        try:
            is_done = step(work)
        finally:
            self._give_back(None if is_done else work)
        return True

    def _borrow(self, item: Item) -> Work | None:
        """Take the store's turn for a step with this item, if it has nothing else to do."""
        with self._changed:
            # Order matters: what waits was read before this item, and goes first.
            if not self._is_waiting or self._is_lent or self._is_held or self._is_closed:
                return None
            if self._items or not self._is_hurried or self._is_due():
                return None
            self._is_lent = self._is_worked_on = True
            return Work([item], self._due_outcomes())

    def _give_back(self, undone: Work | None) -> None:
        """Give the store its turn back, with what was not done, in its old place."""
        with self._changed:
            self._is_lent = self._is_worked_on = False
            if undone is not None:
                self._items.extendleft(reversed(undone.items))
                self._bytes += sum(map(_size, undone.items))
                self._outcomes[:0] = undone.outcomes
                self._settled += sum(len(each.settled) for each in undone.outcomes)
            if self._is_closed or self._is_due():
                self._changed.notify_all()

    def expect(self, *, within: float, is_hurried: bool) -> None:
        """Let the store look again in so many seconds, sooner or later than it wanted to.

        For who has its turn.
        """
        with self._changed:
            self._is_hurried = is_hurried
            now = time.monotonic()
            if now >= self._deadline:
                return  # it waits for its turn
            before = self._deadline
            self._deadline = min(now + within, self._gathering_since + _MOST_SECONDS_LENT)
            if self._deadline < before:
                # It waits for a longer time than that, until somebody wakes it.
                self._changed.notify_all()

    def report(self, outcomes: Outcomes) -> None:
        """Hand over what became of published entries; never waits."""
        with self._changed:
            self._outcomes.append(outcomes)
            self._settled += len(outcomes.settled)
            # A few go with one of the next changes, or when the store looks again by itself: to
            # wake it for each takes time from what is on its way.
            if self._settled >= _MOST_SETTLED:
                self._changed.notify_all()

    def take_outcomes(self) -> list[Outcomes]:
        """Return what was reported and not gathered yet; never waits."""
        with self._changed:
            return self._all_outcomes()

    def poke(self) -> None:
        """Let the store's next `gather` return at once."""
        with self._changed:
            self._is_poked = True
            self._changed.notify_all()

    def hold(self, *, is_held: bool) -> None:
        """Keep readers' items back (the outbox is full), or let them through again."""
        with self._changed:
            self._is_held = is_held
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more items; those that wait are still gathered. Safe to repeat."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._hurries.notify_all()

    @property
    def is_drained(self) -> bool:
        """Whether it is closed and every item was gathered."""
        with self._changed:
            return self._is_closed and not self._items

    def wait_until_drained(self, seconds: float) -> bool:
        """Wait until every item was gathered and its step is done; whether that is so."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._items and not self._is_worked_on, seconds
            )

    def gather(self, *, timeout: float, is_hurried: bool = True) -> Work:
        """Wait for work and take a step's share of it.

        Args:
            timeout: seconds to wait for anything at all, and that a few outcomes may wait for
                company.
            is_hurried: whether items go at once; else they too wait for company.
        """
        with self._changed:
            # The store is back: what it took before is committed.
            self._is_worked_on = False
            if is_hurried and not self._is_hurried:
                self._hurries.notify_all()
            self._is_hurried = is_hurried
            self._gathering_since = time.monotonic()
            self._deadline = self._gathering_since + timeout
            self._is_waiting = True
            self._changed.notify_all()
            while self._is_lent or not self._is_due():
                remaining = self._deadline - time.monotonic()
                if remaining > 0:
                    self._changed.wait(remaining)
                elif self._is_lent:
                    self._changed.wait()  # whoever gives the turn back late wakes us
            self._is_waiting = False
            self._is_poked = False
            items: list[Item] = []
            size = 0
            while self._has_items() and size < _MOST_BYTES_A_STEP:
                item = self._items.popleft()
                items.append(item)
                size += _size(item)
            self._bytes -= size
            self._is_worked_on = bool(items)
            self._changed.notify_all()
            return Work(items, self._due_outcomes() if items else self._all_outcomes())

    def _is_due(self) -> bool:
        """Whether the store should not wait any longer."""
        return self._is_poked or self._is_enough() or time.monotonic() >= self._deadline

    def _is_enough(self) -> bool:
        """Whether there is so much to do that the store should not wait for more."""
        if self._settled >= _MOST_SETTLED:
            return True
        is_share = self._is_hurried or self._is_closed or self._bytes >= _MOST_BYTES_A_STEP
        return is_share and self._has_items()

    def _all_outcomes(self) -> list[Outcomes]:
        outcomes, self._outcomes, self._settled = self._outcomes, [], 0
        self._steps_without_settling = 0
        return outcomes

    def _due_outcomes(self) -> list[Outcomes]:
        """Return the outcomes for a step that has items, which go faster without."""
        self._steps_without_settling += 1
        is_due = self._steps_without_settling > _STEPS_WITHOUT_SETTLING
        # At the end there is no later step.
        if is_due or self._is_closed or self._settled >= _MOST_SETTLED:
            return self._all_outcomes()
        return []

    def _has_items(self) -> bool:
        return bool(self._items) and (not self._is_held or self._is_closed)
