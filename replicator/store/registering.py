"""Gives a table its feed: a new one, or the one that the outbox has."""

from replicator import __version__
from replicator.domain.envelope import envelope
from replicator.domain.feed import MIXED, Feed
from replicator.domain.items import TableSettings
from replicator.domain.reconcile import TableRules
from replicator.log import get_logger
from replicator.outbox.port import Outbox, Registered


def registered(outbox: Outbox, table: TableSettings, outbox_id: str, now: int) -> Feed:
    """Find or make the feed of a table, in the state lost; safe to repeat.

    Logs a change of the table's fields, because that changes every digest.
    """
    found = outbox.register(table.name, table.projection)
    kept = found.row.kept()
    if not found.is_new and found.row.projection != table.projection and found.row.first_ready_at:
        _warn_of_changed_fields(found, table)
    form = envelope(table.envelope, outbox_id, table.name, __version__)
    return Feed(
        id=found.row.id,
        name=table.name,
        rules=TableRules(
            primary_key=kept["indexed_key"] or "id",
            keep_documents=table.keep_documents,
            wrap=form.wrap,
            seal=form.seal,
        ),
        is_baseline=table.is_baseline,
        projection=table.projection,
        delete_limit=table.delete_limit,
        gap=found.gap,
        state_since=now,
        **kept,
    )


def _warn_of_changed_fields(found: Registered, table: TableSettings) -> None:
    if found.row.projection == MIXED:
        get_logger("store").warning(
            "fields of a table changed, and its documents are not all compared yet",
            table=str(table.name),
            now=table.projection,
        )
        return
    get_logger("store").warning(
        "fields of a table changed: every document is compared as changed",
        table=str(table.name),
        before=found.row.projection,
        now=table.projection,
        action="recorded as the new baseline"
        if found.row.absorb_changed
        else "published again as updates",
        hint="to record instead of publish: stop, then run "
        f"`replicator feed baseline {table.name}` and start again",
    )
