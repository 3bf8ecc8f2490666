"""What operators change in an outbox by a command: its schema, and what a resync does."""

from typing import NamedTuple

from replicator.errors import TableUnusable
from replicator.outbox import feeds
from replicator.outbox.engine import database_path, open_engine, translated
from replicator.outbox.lock import OutboxLock
from replicator.outbox.migrate import current, head, require_current, upgrade


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


def take_as_baseline(url: str, table: str) -> None:
    """Let the next snapshot of a table record its changed documents instead of publishing them.

    For a change of ``include_fields`` or ``exclude_fields``, which changes every digest. Read by
    the service when it starts. Safe to repeat.

    Raises:
        TableUnusable: the outbox has no feed of this table.
    """
    engine = open_engine(url)
    with translated(database_path(url)):
        with engine.connect() as connection:
            require_current(connection)
        with engine.begin() as connection:
            for feed_id, name in feeds.names(connection).items():
                if str(name) == table:
                    feeds.save(connection, feed_id, absorb_changed=1)
                    return
    raise TableUnusable(
        f"this outbox has no feed of the table {table}",
        hint="`replicator feed list` names those that it has",
    )
