"""What readers and discovery hand to the store, in the order in which it happened."""

from collections.abc import Sequence
from typing import NamedTuple

from replicator.domain.feed_element import Change
from replicator.domain.guard import DEFAULT_LIMIT, DeleteLimit
from replicator.domain.model import Cause, TableName


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
    size: int  # bytes, approximately
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
    """What the store must know of a replicated table."""

    name: TableName
    projection: str  # which fields the feed shows, as stable text
    keep_documents: bool
    is_baseline: bool
    envelope: str = "change"
    delete_limit: DeleteLimit | None = DEFAULT_LIMIT  # None: off


class TableFound(NamedTuple):
    """A table to be replicated is there: it gets its feed."""

    table: TableSettings
    at: int


class TableDropped(NamedTuple):
    """A table is gone for good and its changefeed is closed: all its documents are deleted."""

    name: TableName
    at: int


Item = FeedItem | TableFound | TableDropped
"""What the store takes in."""
