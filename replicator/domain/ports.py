"""The doors between the parts: from a reader to the store, and from the store to the publisher.

The source and the publisher never import the outbox, nor each other; they meet at these types.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from replicator.domain.items import Item
from replicator.domain.model import Entry


class FeedSink(Protocol):
    """Where readers hand over what they read."""

    def put(self, item: Item) -> bool:
        """Hand an item over, waiting for room; False when the store takes no more (shutdown)."""
        ...


class EntrySink(Protocol):
    """Where the store hands committed entries over."""

    @property
    def room(self) -> int:
        """How many entries may be offered now; any thread may ask."""
        ...

    def offer(self, entries: Sequence[Entry]) -> None:
        """Hand over committed entries in the order of their numbers; never waits."""
        ...

    def readmit(self, entries: Sequence[Entry]) -> None:
        """Hand over entries that were redriven, and may be older than those before; never waits.

        Those that are still here stay where they are, and those that were reported as settled or
        parked are not taken: `committed` has not come, so the reader could not know of it.
        """
        ...

    def committed(self, reports: int) -> None:
        """Say that the oldest so many reports are committed; never waits.

        To be called after that commit and before anything is read that is handed over.
        """
        ...

    def withdraw(self, numbers: Collection[int]) -> None:
        """Take back entries that an operator parked or discarded; never waits.

        What is in flight by then may be delivered.
        """
        ...
