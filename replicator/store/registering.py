"""How a table gets its feed in the outbox: made when it is new, else as it was left."""

from sqlalchemy import Connection

from replicator import __version__
from replicator.domain.envelope import envelope
from replicator.domain.feed import Feed
from replicator.domain.items import TableSettings
from replicator.domain.reconcile import TableRules
from replicator.log import get_logger
from replicator.outbox.sqlite import feeds, index
from replicator.outbox.sqlite.feeds import FeedRow


def registered(connection: Connection, table: TableSettings, outbox_id: str, now: int) -> Feed:
    """Make or find the feed of a table, lost as yet, in the caller's transaction.

    Says so when the fields of the table changed, since that changes every digest.
    """
    row, is_new = feeds.register(connection, table.name, table.projection)
    if row.projection != table.projection:
        # A field that is excluded from now on must not come back as an old value.
        index.forget_documents(connection, row.id)
    if not is_new and row.projection != table.projection and row.first_ready_at:
        _warn_of_changed_fields(row, table)
    form = envelope(table.envelope, outbox_id, table.name, __version__)
    return Feed(
        id=row.id,
        name=row.name,
        rules=TableRules(
            primary_key=row.primary_key or "id",
            keep_documents=table.keep_documents,
            wrap=form.wrap,
            seal=form.seal,
        ),
        is_baseline=table.is_baseline,
        projection=table.projection,
        absorb_changed=row.absorb_changed,
        indexed_key=row.primary_key,
        table_id=row.table_id,
        opened_at=row.opened_at,
        alive_at=row.alive_at,
        first_ready_at=row.first_ready_at,
        ready_at=row.ready_at,
        changed_at=row.changed_at,
        captured=row.captured,
        skipped=row.skipped,
        state_since=now,
        gap=feeds.open_gap(connection, row.id),
    )


def _warn_of_changed_fields(row: FeedRow, table: TableSettings) -> None:
    get_logger("store").warning(
        "fields of a table changed: every document is compared as changed",
        table=str(table.name),
        before=row.projection,
        now=table.projection,
        action="recorded as the new baseline"
        if row.absorb_changed
        else "published again as updates",
        hint="to record instead of publish: stop, then run "
        f"`replicator feed baseline {table.name}` and start again",
    )
