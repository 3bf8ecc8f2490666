"""What operators do to feeds (resync, baseline, deletes) and to the outbox's schema (migrate)."""

from msgspec.structs import replace
from sqlalchemy import Connection, select, update

from replicator.domain.guard import Guard
from replicator.errors import NothingHeldBack, OutboxOutdated
from replicator.operators.entries import patiently
from replicator.operators.listing import feed_id
from replicator.outbox import orders
from replicator.outbox.feeds import read_guard, stored_guard
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


def held_back(database: Database, table: str) -> Guard:
    """Return what the guard holds back of a table.

    Raises:
        NothingHeldBack: nothing is.
        TableUnusable: the outbox has no feed of this table.
        see `Database.reading` for the rest.
    """
    with database.reading() as connection:
        return _guard(connection, table)


@patiently
def accept_deletes(database: Database, table: str, shown: Guard) -> None:
    """Let the deletes that are held back go, at most as many as the operator was shown.

    For this comparison of the table or, if the feed is opened again before it goes on, for the
    next. Recorded; safe to repeat.

    Raises:
        NothingHeldBack: nothing is held back any more, more than was shown, or of another table
            that has the name now.
        TableUnusable: the outbox has no feed of this table.
        see `Database.writing` for the rest.
    """
    with database.writing() as connection:
        guard = _guard(connection, table)
        if guard.table_id != shown.table_id:
            raise NothingHeldBack(
                f"{table} is another table by now; nothing was changed",
                hint="look again with --dry-run",
            )
        if guard.deletes > shown.deletes:
            raise NothingHeldBack(
                f"{guard.deletes:,} deletes of {table} are held back by now, not "
                f"{shown.deletes:,}; nothing was changed",
                hint="look again with --dry-run",
            )
        accepted = replace(guard, accepted=shown.deletes)
        number = feed_id(connection, table)
        connection.execute(
            update(feeds).where(feeds.c.id == number).values(guard=stored_guard(accepted))
        )
        order = {"feed_id": number, "captured_at": guard.at, "deletes": shown.deletes}
        orders.record(connection, Action.ACCEPT_DELETES, [order])


def _guard(connection: Connection, table: str) -> Guard:
    query = select(feeds.c.guard).where(feeds.c.id == feed_id(connection, table))
    guard = read_guard(connection.execute(query).scalar())
    if guard is None:
        raise NothingHeldBack(
            f"no deletes of {table} are held back",
            hint="`replicator feed list` names the feeds that are guarded",
        )
    return guard
