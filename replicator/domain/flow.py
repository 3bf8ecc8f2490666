"""The doors between the parts: what a reader hands to the store, and the store to the publisher.

The source and the publisher never import the outbox, nor each other; they meet at these types.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from replicator.domain.feed_document import Change
from replicator.domain.model import Cause, Entry, TableName


class FeedOpened(NamedTuple):
    """A changefeed is open; its snapshot begins."""

    feed_id: int
    table_id: str  # RethinkDB's own id: a table created again under the same name has another
    primary_key: str
    at: int  # microseconds since the epoch


class FeedBatch(NamedTuple):
    """Elements with a value, in feed order, as one read gave them."""

    feed_id: int
    changes: Sequence[Change]
    size: int  # bytes, about
    at: int
    complete_at: int = 0  # the last instant at which nothing of the feed was unread; 0: unknown


class SnapshotRead(NamedTuple):
    """The feed said ``ready``: all initial values came before this."""

    feed_id: int
    at: int
    complete_at: int = 0  # the last instant at which nothing of the feed was unread; 0: unknown


class FeedClosed(NamedTuple):
    """The changefeed ended, or could not be opened."""

    feed_id: int
    cause: Cause
    error: str
    skipped: int  # changes that the server said it dropped
    at: int
    complete_at: int = 0  # the last instant at which nothing of the feed was unread; 0: unknown


FeedItem = FeedOpened | FeedBatch | SnapshotRead | FeedClosed


class TableSettings(NamedTuple):
    """What the store must know of a table that is replicated."""

    name: TableName
    projection: str  # which fields the feed shows, as stable text
    keep_documents: bool
    is_baseline: bool
    envelope: str = "change"


class TableFound(NamedTuple):
    """A table is there that is to be replicated: it gets its feed."""

    table: TableSettings
    at: int


class TableDropped(NamedTuple):
    """A table is gone for good and its changefeed is closed: its documents are deletes."""

    name: TableName
    at: int


Item = FeedItem | TableFound | TableDropped
"""What the store takes in."""


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
