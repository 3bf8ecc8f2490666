"""The doors between the parts: from a reader to the store, and from the store to the publisher.

The source and the publisher never import the outbox, nor each other; they meet at these types.
"""

from collections.abc import Sequence
from typing import Protocol

from replicator.domain.items import Item
from replicator.domain.model import Entry


class FeedSink(Protocol):
    """Where readers hand over what they read."""

    def put(self, item: Item) -> bool:
        """Hand an item over, waiting for room; False when the store takes no more (shutdown)."""
        ...


class EntrySink(Protocol):
    """Where the store hands committed entries over: the publisher.

    A **reading** is one pass over the pending entries from the oldest on. The publisher asks for
    one with `Outcomes.reading` whenever it has forgotten what it had: after a lost channel, and
    after `forget`. An offer of an earlier reading is dropped: it may lack older entries.
    """

    @property
    def room(self) -> int:
        """How many entries may be offered now; 0 without a channel. Any thread may ask."""
        ...

    def offer(self, entries: Sequence[Entry], reading: int) -> None:
        """Hand over committed entries of a reading in the order of their numbers; never waits."""
        ...

    def forget(self) -> None:
        """Forget everything except what is in flight, and ask for a new reading; never waits.

        To be called after an operator's order. What is in flight cannot be called back, but it is
        not sent a second time while its answer is awaited; refused, it is sent again only if the
        outbox still has it as pending.
        """
        ...
