"""What operators change in an outbox by a command: its schema, and what a resync does."""

import time
from typing import NamedTuple

from sqlalchemy import Connection, update

from replicator.errors import TableUnusable
from replicator.operators.entries import actor, patiently, writing
from replicator.outbox import feeds, schema
from replicator.outbox import orders as operations
from replicator.outbox.migrations import current, head, upgrade
from replicator.outbox.sqlite.connection import database_path, open_engine, translated
from replicator.outbox.sqlite.lock import OutboxLock


class Migrated(NamedTuple):
    """The schema before and after."""

    before: str | None
    after: str


def migrate(url: str) -> Migrated:
    """Bring the schema of an existing outbox up to date. Safe to repeat.

    Raises:
        OutboxMissing, OutboxTooNew, OutboxUnusable, OutboxUnavailable: as they say.
        OutboxInUse: a service of an older version runs on it.
    """
    path = database_path(url)
    engine = open_engine(url)
    with translated(path):
        with engine.connect() as connection:
            before = current(connection)
            if before == head():
                return Migrated(before, before)
        # A running service would go on with statements of the old schema.
        with OutboxLock(path):
            return Migrated(*upgrade(engine))


def take_as_baseline(url: str, table: str, *, is_dry: bool = False) -> None:
    """Let the next snapshot of a table record its changed documents instead of publishing them.

    For a change of ``include_fields`` or ``exclude_fields``, which changes every digest. Read by
    the service when it starts. Recorded; safe to repeat. With ``is_dry`` nothing is changed.

    Raises:
        TableUnusable: the outbox has no feed of this table.
    """
    with writing(url) as connection:
        feed_id = _feed_id(connection, table)
        if is_dry:
            return
        connection.execute(
            update(schema.feeds).where(schema.feeds.c.id == feed_id).values(absorb_changed=1)
        )
        _record(connection, operations.Action.BASELINE, feed_id)


def request_resync(url: str, table: str) -> None:
    """Ask the running service for a new snapshot of a table, which is compared with the index.

    Recorded, and read by the service within seconds. Without one, nothing is left to do: every
    start begins with a snapshot. Safe to repeat.

    Raises:
        TableUnusable: the outbox has no feed of this table.
        OutboxMissing, OutboxOutdated, OutboxTooNew, OutboxUnusable, OutboxUnavailable: as they say.
    """

    def request() -> None:
        with writing(url) as connection:
            _record(connection, operations.Action.RESYNC, _feed_id(connection, table))

    patiently(request)


def _record(connection: Connection, action: operations.Action, feed_id: int) -> None:
    row = {
        "at": time.time_ns() // 1000,
        "actor": actor(),
        "action": action.value,
        "feed_id": feed_id,
    }
    operations.record(connection, [row])


def _feed_id(connection: Connection, table: str) -> int:
    for feed_id, name in feeds.names(connection).items():
        if str(name) == table:
            return feed_id
    raise TableUnusable(
        f"this outbox has no feed of the table {table}",
        hint="`replicator feed list` names those that it has",
    )
