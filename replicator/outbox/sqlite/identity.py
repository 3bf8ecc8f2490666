"""Who an outbox is: its short id, made once, and the highest entry number it has given out."""

import uuid
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import sqlite

from replicator.domain.properties import outbox_id
from replicator.errors import OutboxUnusable
from replicator.outbox.records import Count, sound
from replicator.outbox.schema import meta
from replicator.outbox.sqlite import statements

_SAVE_LAST_ENTRY: Final = str(
    update(meta).values(last_entry=bindparam("number")).compile(dialect=sqlite.dialect())
)


class Identity(NamedTuple):
    """What message ids are made of."""

    outbox_id: Annotated[str, msgspec.Meta(pattern="^[a-z2-7]{8}$")]
    last_entry: Count


def load_or_create(connection: Connection, now: int) -> Identity:
    """Return the identity of an outbox, giving it one when it is new.

    Raises:
        OutboxUnusable: what is there is no identity.
    """
    row = connection.execute(select(meta.c.outbox_id, meta.c.last_entry)).one_or_none()
    if row is not None:
        (identity,) = sound([tuple(row)], Identity, meta.name)
        return identity
    made = uuid.uuid4()
    connection.execute(
        insert(meta).values(
            id=1, outbox_id=outbox_id(made.bytes), uuid=str(made), created_at=now, last_entry=0
        )
    )
    return Identity(outbox_id(made.bytes), 0)


def save_last_entry(connection: Connection, number: int) -> None:
    """Note the highest number given out, in the transaction that appends the entry."""
    statements.run(connection, _SAVE_LAST_ENTRY, (number,))


class SameFile:
    """Sees that a database file is still where it was.

    SQLite goes on writing to a file that was deleted, and all of it is gone with the process:
    better to end while what is not confirmed is still little.
    """

    def __init__(self, path: Path) -> None:
        """Remember nothing yet."""
        self._path = path
        self._inode: int | None = None

    def require(self) -> None:
        """Compare with the first time.

        Raises:
            OutboxUnusable: it was removed or replaced.
        """
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = -1
        if self._inode is None:
            self._inode = inode
        if inode != self._inode:
            raise OutboxUnusable(
                f"the outbox at {self._path} was removed or replaced while it was in use",
                hint="start again: it goes on with the file that is there, or with a new one",
            )
