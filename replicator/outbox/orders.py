"""Orders: what operators did to the outbox, and what they ask of the running service.

Each order is a row, written in the transaction that does what it says, and never removed. The rows
are the record of who dropped what. They also tell the service, which runs in another process: its
store reads the rows after the last one that it knows.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, insert, select

from replicator.clock import now_us
from replicator.domain.model import Count, Instant, Op
from replicator.outbox.records import damaged, sound, sound_key
from replicator.outbox.schema import feeds, operations

OPERATOR: Final = "operator"
"""The reason of an entry that was parked by a command."""


class Action(StrEnum):
    """What an operator did, or asked for."""

    REDRIVE = "redrive"
    PARK = "park"
    DISCARD = "discard"
    RESYNC = "resync"
    BASELINE = "baseline"
    ACCEPT_DELETES = "accept-deletes"


class Order(NamedTuple):
    """One order, as its columns stand; instants in microseconds since the epoch."""

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
    deletes: Count | None  # how many were accepted
    table: str | None = None  # of its feed, as database.table

    @property
    def entries(self) -> int:
        """The number of entries that it changed."""
        if self.first_entry is None or self.last_entry is None:
            return 0
        return self.last_entry - self.first_entry + 1


_NO_COLUMN: Final = {column.name: None for column in operations.c if not column.primary_key}
_ORDERS: Final = select(
    operations, feeds.c.database_name + "." + feeds.c.table_name
).outerjoin_from(operations, feeds)


def record(connection: Connection, action: Action, rows: Sequence[dict[str, Any]]) -> None:
    """Add orders of this user, in the transaction that does what they say.

    Args:
        connection: that transaction.
        action: what was done.
        rows: the other columns of each; columns that are left out become null.
    """
    common = _NO_COLUMN | {"at": now_us(), "actor": _actor(), "action": action.value}
    if rows:
        connection.execute(insert(operations), [common | row for row in rows])


def newest(connection: Connection, *, limit: int) -> list[Order]:
    """Return the newest orders, the oldest of them first; raises what `checked` does."""
    query = _ORDERS.order_by(operations.c.id.desc()).limit(limit)
    return checked(connection.execute(query))[::-1]


def checked(rows: Iterable[Any]) -> list[Order]:
    """Return the orders in these rows; without their tables, where those were not read.

    Raises:
        OutboxUnusable: a row is not one that an outbox writes.
    """
    found = sound(map(tuple, rows), Order, operations.name)
    for row in found:
        if row.key is not None:
            sound_key(row.key, operations.name)
        if (row.first_entry is None) is not (row.last_entry is None):
            raise damaged(operations.name, f"row {row.id}: it has half a range of entries")
    return found


def _actor() -> str:
    """Return who gives the command as ``user@host``; a user without a name as its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
