"""What operators do to feeds (resync, baseline) and to the schema of the outbox (migrate)."""

from sqlalchemy import update

from replicator.errors import OutboxOutdated
from replicator.operators.entries import patiently
from replicator.operators.listing import feed_id
from replicator.outbox import orders
from replicator.outbox.migrations import head
from replicator.outbox.orders import Action
from replicator.outbox.port import Database, Migrated
from replicator.outbox.schema import feeds


def migrate(database: Database) -> Migrated:
    """Bring the schema of an existing outbox up to date. Safe to repeat.

    Raises:
        OutboxInUse: a service of an older version runs on it.
        see `Database.upgrade` for the rest.
    """
    try:
        with database.reading():
            return Migrated(head(), head())
    except OutboxOutdated:
        with database.exclusively():
            return database.upgrade()


@patiently
def take_as_baseline(database: Database, table: str, *, is_dry: bool = False) -> None:
    """Let the next snapshot of a table record its changed documents instead of publishing them.

    For a change of ``include_fields`` or ``exclude_fields``, which changes every digest. Takes
    effect when the service starts. Recorded; safe to repeat. With ``is_dry`` nothing is changed.

    Raises:
        TableUnusable: the outbox has no feed of this table.
        see `Database.writing` for the rest.
    """
    with database.reading() if is_dry else database.writing() as connection:
        found = feed_id(connection, table)
        if not is_dry:
            connection.execute(update(feeds).where(feeds.c.id == found).values(absorb_changed=1))
            orders.record(connection, Action.BASELINE, [{"feed_id": found}])


@patiently
def request_resync(database: Database, table: str) -> None:
    """Ask the running service for a new snapshot of a table, which is compared with the index.

    Recorded, and read by the service within seconds. If no service runs, the next start makes a
    snapshot anyway. Safe to repeat.

    Raises:
        TableUnusable: the outbox has no feed of this table.
        see `Database.writing` for the rest.
    """
    with database.writing() as connection:
        orders.record(connection, Action.RESYNC, [{"feed_id": feed_id(connection, table)}])
