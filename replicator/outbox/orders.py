"""What operators did to the outbox, and what they ask of the running service.

A row for each thing that was done, written in the transaction that does it, and never removed. It
is the record of who dropped what. It is also how the service, which runs in another process,
hears of it: its store reads the rows behind the last one that it knows.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, func, insert, select

from replicator.domain.model import Op
from replicator.outbox.records import Count, Instant, damaged, sound, sound_key
from replicator.outbox.schema import operations

OPERATOR: Final = "operator"
"""The reason of an entry that was parked by a command."""


class Action(StrEnum):
    """What an operator did, or asked for."""

    REDRIVE = "redrive"
    PARK = "park"
    DISCARD = "discard"
    RESYNC = "resync"
    BASELINE = "baseline"


class Order(NamedTuple):
    """A row, in the order of its columns; instants in microseconds since the epoch."""

    id: Count
    at: Instant
    actor: str
    action: Action
    feed_id: int | None
    first_entry: Count | None
    last_entry: Count | None
    key: str | None  # of one entry: the primary key as JSON text
    op: Op | None
    captured_at: Instant | None
    was: str | None  # the state before

    @property
    def entries(self) -> int:
        """How many entries it was done to."""
        if self.first_entry is None or self.last_entry is None:
            return 0
        return self.last_entry - self.first_entry + 1


_EVERY_COLUMN: Final = dict.fromkeys(Order._fields[1:])


def record(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows, in the transaction that does what they say; left out columns are null."""
    if rows:
        connection.execute(insert(operations), [_EVERY_COLUMN | row for row in rows])


def last(connection: Connection) -> int:
    """Return the number of the newest row; 0 when there is none."""
    return int(connection.execute(select(func.max(operations.c.id))).scalar() or 0)


def behind(connection: Connection, number: int) -> list[Order]:
    """Return the rows behind a number, oldest first.

    Raises:
        OutboxUnusable: a row is none that was written here.
    """
    query = select(operations).where(operations.c.id > number).order_by(operations.c.id)
    return _read(connection, query)


def newest(connection: Connection, *, limit: int) -> list[Order]:
    """Return the newest rows, oldest of them first; raises as `behind`."""
    query = select(operations).order_by(operations.c.id.desc()).limit(limit)
    return _read(connection, query)[::-1]


def _read(connection: Connection, query: Select[Any]) -> list[Order]:
    return checked(connection.execute(query))


def checked(rows: Iterable[Any]) -> list[Order]:
    """Return rows of the table as orders.

    Raises:
        OutboxUnusable: no outbox writes such a row.
    """
    found = sound(map(tuple, rows), Order, operations.name)
    for row in found:
        if row.key is not None:
            sound_key(row.key, operations.name)
        if (row.first_entry is None) is not (row.last_entry is None):
            raise damaged(operations.name, f"row {row.id}: it has half a range of entries")
    return found
