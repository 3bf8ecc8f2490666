"""What waits for the store: batches of the readers, outcomes of the publisher.

The readers' side is bounded in bytes: when the disk is slow, or the outbox is full, a reader
waits here, its changefeed is not read, and memory does not grow (promise G5). The publisher's
side never waits: the publisher's window limits what it can report.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from replicator.domain.items import FeedBatch, Item
from replicator.domain.model import Outcomes

_MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_STEP_BYTES: Final = 2 * 1024 * 1024
# Settled entries may wait a moment for the next commit: if a crash loses them, their messages are
# only sent twice.
_MAX_SETTLED: Final = 2000


class Work(NamedTuple):
    """What one step of the store works on."""

    items: Sequence[Item]
    outcomes: list[Outcomes]

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self.items or self.outcomes)


def _size(item: Item) -> int:
    return item.size if isinstance(item, FeedBatch) else 0


class Inbox:
    """A bounded queue for many readers and the publisher on one side, the store on the other."""

    def __init__(self) -> None:
        """Start empty and open."""
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._outcomes: list[Outcomes] = []
        self._settled = 0
        self._is_closed = False
        self._is_held = False
        self._is_poked = False
        self._is_hurried = True
        self._is_worked_on = False

    def put(self, item: Item) -> bool:
        """Hand an item over, waiting while the queue is full. Returns False if it is closed."""
        with self._changed:
            while not self._is_closed and self._bytes >= _MAX_BYTES:
                self._changed.wait()
            if self._is_closed:
                return False
            self._items.append(item)
            self._bytes += _size(item)
            self._wake_if_due()
            return True

    def report(self, outcomes: Outcomes) -> None:
        """Hand over what became of published entries; never waits."""
        with self._changed:
            self._outcomes.append(outcomes)
            self._settled += len(outcomes.settled)
            self._is_poked = self._is_poked or bool(outcomes.reading)
            self._wake_if_due()

    def take_outcomes(self) -> list[Outcomes]:
        """Return what was reported and not gathered yet; never waits."""
        with self._changed:
            outcomes, self._outcomes, self._settled = self._outcomes, [], 0
            return outcomes

    def give_back(self, outcomes: Sequence[Outcomes]) -> None:
        """Take back what was gathered and not committed, ahead of everything reported since."""
        with self._changed:
            self._outcomes[:0] = outcomes
            self._settled += sum(len(each.settled) for each in outcomes)
            self._is_poked = self._is_poked or any(each.reading for each in outcomes)

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
        """Accept no more items; waiting ones are still gathered. Safe to repeat."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_drained(self) -> bool:
        """Whether it is closed and every item was gathered."""
        with self._changed:
            return self._is_closed and not self._items

    def wait_until_drained(self, seconds: float) -> bool:
        """Wait until every item was gathered and its step is done; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._items and not self._is_worked_on, seconds
            )

    def gather(self, *, timeout: float, is_hurried: bool = True) -> Work:
        """Wait for work and take a step's share of it.

        Args:
            timeout: the longest wait in seconds: for anything at all, and for more outcomes when
                there are only a few.
            is_hurried: whether items are taken at once, instead of waiting for more of them too.
        """
        with self._changed:
            # The store has come back, so what it took before is committed.
            self._is_worked_on = False
            self._is_hurried = is_hurried
            self._changed.notify_all()
            self._changed.wait_for(self._is_due, timeout)
            self._is_poked = False
            items: list[Item] = []
            size = 0
            while self._has_items() and size < _MAX_STEP_BYTES:
                item = self._items.popleft()
                items.append(item)
                size += _size(item)
            self._bytes -= size
            self._is_worked_on = bool(items)
            self._changed.notify_all()
            return Work(items, self.take_outcomes())

    def _wake_if_due(self) -> None:
        if self._is_due():
            self._changed.notify_all()

    def _is_due(self) -> bool:
        """Return whether the store should stop waiting for more."""
        if self._is_poked or self._settled >= _MAX_SETTLED:
            return True
        is_share = self._is_hurried or self._is_closed or self._bytes >= _MAX_STEP_BYTES
        return is_share and self._has_items()

    def _has_items(self) -> bool:
        return bool(self._items) and (not self._is_held or self._is_closed)
