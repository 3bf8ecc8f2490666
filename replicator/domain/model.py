"""The values that flow from a changefeed through the outbox to RabbitMQ.

Owns the vocabulary of the data path; decides nothing. Instants are integers on the hot path,
microseconds since the epoch (UTC), because a million of them may wait in an outbox.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec

_LAST_INSTANT: Final = 253_402_300_799_999_999  # the end of the year 9999

Instant = Annotated[int, msgspec.Meta(ge=0, le=_LAST_INSTANT)]
"""Microseconds since the epoch, up to the last year that can be shown."""
MAX_COUNT: Final = 2**62
"""Half of what a database can count to, so that counting on from it cannot overflow."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class Op(StrEnum):
    """What happened to a document: the message's ``type``, and part of its routing key."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Origin(StrEnum):
    """How the replicator learned of a change."""

    FEED = "feed"  # a live change
    SNAPSHOT = "snapshot"  # the first publication of a table
    RESYNC = "resync"  # found by comparison after a gap


class Cause(StrEnum):
    """Why a feed had to be opened again: a label of the metrics and a column of the gaps."""

    START = "start"  # the replicator was not running
    DISCONNECT = "disconnect"  # the connection that carried the feed was lost
    OVERFLOW = "overflow"  # RethinkDB dropped changes, the reader did not keep up
    ABORTED = "aborted"  # RethinkDB ended the feed
    REQUESTED = "requested"  # an operator asked for a resync


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One row of the outbox: one message that RabbitMQ has not confirmed yet.

    ``number`` only grows within an outbox and is never reused. A row that is read back is checked
    against these types and becomes an entry in one step.
    """

    number: Count
    feed_id: Count
    key: str
    op: Op
    origin: Origin
    body: bytes
    captured_at: Instant


class Known(msgspec.Struct, frozen=True, gc=False):
    """A row of the document index: the state of a document last put into the outbox."""

    row_id: int
    digest: bytes
    document: bytes | None = None  # kept only where ``keep_documents`` asks for it


EVERY: Final = "*"
"""Instead of a table's name: every table of the database."""

Option = TypeVar("Option")


class TableName(NamedTuple):
    """A table's full name."""

    database: str
    table: str

    def __str__(self) -> str:
        """Return ``database.table``, as in settings, metrics and records."""
        return f"{self.database}.{self.table}"

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for every table of its database."""
        return self.table == EVERY

    @property
    def pattern(self) -> "TableName":
        """The name that stands for every table of its database."""
        return TableName(self.database, EVERY)


def of_table(options: Mapping[TableName, Option], name: TableName) -> Option | None:
    """Return what is set for a table by its own name, or else for its whole database."""
    return options.get(name, options.get(name.pattern))


class Returned(NamedTuple):
    """Why RabbitMQ handed a message back (``basic.return``): no queue takes its routing key."""

    code: int
    text: str


class Failure(NamedTuple):
    """Why an entry was not delivered, for the record in the outbox."""

    number: int
    reason: str  # nacked, unroutable, too_large, routing_key_too_long, refused
    text: str
    attempts: int = 1  # the number of attempts that this record stands for


class Outcomes(NamedTuple):
    """What the publisher reports to the store, gathered over one turn of its loop."""

    settled: Sequence[int] = ()  # confirmed, or unroutable and dropped by policy
    settled_bytes: int = 0  # of their bodies
    failed: Sequence[Failure] = ()  # tried again later; recorded so that operators see it
    parked: Sequence[Failure] = ()  # set aside for the operator
    # Not 0: the publisher has forgotten everything but what is in flight, after what it reported
    # before. The pending entries are to be read again, and offered under this number.
    reading: int = 0
