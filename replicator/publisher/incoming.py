"""What other threads hand to the publisher: orders and the entries with them, in order.

The way in for entries, withdrawals and commits alike: what was put first is done first.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from replicator.domain.model import Entry


class Incoming:
    """A queue of orders; any thread puts, who has the publisher's lock does them."""

    def __init__(self) -> None:
        """Start empty."""
        self._orders: deque[tuple[Callable[[], object], Sequence[Entry]]] = deque()
        self._lock = threading.Lock()
        self.count = 0
        """How many entries wait, until their order was done; any thread may read it."""
        self.size = 0
        """The bytes of their bodies."""

    def put(self, order: Callable[[], object], entries: Sequence[Entry] = ()) -> None:
        """Add an order and the entries that it takes in; never waits."""
        with self._lock:
            self._orders.append((order, entries))
            self.count += len(entries)
            self.size += sum(len(entry.body) for entry in entries)

    def waiting(self) -> Iterator[Entry]:
        """Return the entries that wait."""
        with self._lock:
            orders = list(self._orders)
        return (entry for _, entries in orders for entry in entries)

    def do(self) -> None:
        """Do all that is there."""
        with self._lock:
            orders = list(self._orders)
            self._orders.clear()
        # Order matters: an entry can be withdrawn and come again in the same turn.
        for order, _ in orders:
            order()
        batches = [entries for _, entries in orders]
        # Critical section: another thread adds to the count at the same time. A lost update
        # would leave too little room for ever.
        with self._lock:
            self.count -= sum(map(len, batches))
            self.size -= sum(len(e.body) for entries in batches for e in entries)
