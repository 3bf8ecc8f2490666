"""What the store hands to the publisher's loop, in order: entries, and when to forget."""

import threading
from collections.abc import Callable, Sequence

from replicator.domain.model import Entry


class PendingCalls:
    """A queue of calls, each with the entries that it takes in; any thread puts, the loop calls."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._calls: list[tuple[Callable[[], object], Sequence[Entry]]] = []
        self.count = 0
        """How many entries wait until they are taken in; any thread may read it."""
        self.size = 0
        """The bytes of their bodies."""

    def put(self, call: Callable[[], object], entries: Sequence[Entry] = ()) -> bool:
        """Add a call; never waits. Returns whether it is the only one, and wants a turn."""
        size = sum(len(entry.body) for entry in entries)
        with self._lock:
            self._calls.append((call, entries))
            self.count += len(entries)
            self.size += size
            return len(self._calls) == 1

    def do(self) -> None:
        """Do all that is there, in the order in which it came; on the loop's thread only."""
        with self._lock:
            calls, self._calls = self._calls, []
        for call, entries in calls:
            call()
            size = sum(len(entry.body) for entry in entries)
            # Order matters: they are in the window by now. Counted in neither for a moment, they
            # would leave room for more than there is.
            with self._lock:
                self.count -= len(entries)
                self.size -= size
