"""``replicator feed …``: the tables' feeds, their checkpoints and their gaps."""

import time
from typing import Annotated, Any

import typer

from replicator.cli import options, output
from replicator.cli.naming import IsDry, OfTable, ask, complete_table
from replicator.cli.status import recorded_feed
from replicator.operators import listing as inspect
from replicator.operators.feeds import request_resync, take_as_baseline
from replicator.operators.listing import GapRow
from replicator.outbox.sqlite.check import lock_holder

_Table = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="DATABASE.TABLE", autocompletion=complete_table),
]
app = typer.Typer(
    help="The feeds: where each table stands, and where changes may have been missed.",
    epilog="Example: replicator feed gaps",
    no_args_is_help=True,
)


@app.command("list", epilog="Example: replicator feed list --json")
def list_feeds(
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List the feeds and their checkpoints, as the outbox has them."""
    settings = options.settings_from(config, outbox__url=outbox)
    with inspect.reading(settings.outbox.url) as connection:
        found = inspect.list_feeds(connection)
    if as_json:
        output.print_lines(recorded_feed(feed) for feed in found)
        return
    output.print_table(
        [
            "table",
            "state",
            "ready at",
            "last change",
            "#captured",
            "#documents",
            "gap since",
            "…last error",
        ],
        (
            (
                feed.name,
                feed.state.value,
                output.instant(feed.ready_at),
                output.instant(feed.changed_at),
                f"{feed.captured:,}",
                f"{feed.compared:,}",
                output.instant(feed.gap.opened_at) if feed.gap else None,
                feed.last_error,
            )
            for feed in found
        ),
        empty="no feeds yet: they are made by `replicator run`",
    )
    if found and lock_holder(settings.outbox.url) is None:
        output.note("no replicator runs on this outbox: these states are the last it wrote down")


@app.command("gaps", epilog="Example: replicator feed gaps --table change_example.mytable")
def gaps(
    *,
    table: OfTable = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=options.MOST_ROWS, help="The newest so many.")
    ] = 100,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List the times in which versions of documents may have been missed, and their repair.

    After a repair every document's latest state was published; RethinkDB keeps no history, so
    states in between may never have been seen.
    """
    settings = options.settings_from(config, outbox__url=outbox)
    with inspect.reading(settings.outbox.url) as connection:
        found = inspect.list_gaps(connection, table=table, limit=limit)
    if as_json:
        output.print_lines(_gap_facts(gap) for gap in found)
        return
    output.print_table(
        ["table", "cause", "from", "to", "lasted", "#created", "#updated", "#deleted", "#skipped"],
        (
            (
                gap.table,
                gap.cause,
                output.instant(gap.opened_at),
                output.instant(gap.closed_at) or "not repaired yet",
                output.human_seconds(_lasted(gap)),
                gap.created,
                gap.updated,
                gap.deleted,
                gap.skipped,
            )
            for gap in found
        ),
        empty="no gaps",
    )


def _lasted(gap: GapRow) -> float:
    until = gap.closed_at / 1e6 if gap.closed_at is not None else time.time()
    return round(max(0.0, until - gap.opened_at / 1e6), 3)


def _gap_facts(gap: GapRow) -> dict[str, Any]:
    return {
        "id": gap.id,
        "table": gap.table,
        "cause": gap.cause,
        "from": output.instant(gap.opened_at),
        "to": output.instant(gap.closed_at),
        "seconds": _lasted(gap),
        "created": gap.created,
        "updated": gap.updated,
        "deleted": gap.deleted,
        "skipped": gap.skipped,
    }


@app.command("resync", epilog="Example: replicator feed resync change_example.mytable")
def resync(
    table: _Table,
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Compare a table with the index now, and publish what differs.

    A running service opens the feed again within seconds, with a new snapshot, and records a gap
    of the cause `requested`. Without one there is nothing to wait for: every start is a resync.
    """
    settings = options.settings_from(config, outbox__url=outbox)
    request_resync(settings.outbox.url, table)
    is_running = lock_holder(settings.outbox.url) is not None
    if as_json:
        output.print_object({"table": table, "resync": "now" if is_running else "next start"})
    elif is_running:
        output.console().print(f"the feed of {table} is opened again within seconds")
    else:
        output.console().print(
            f"no replicator runs on this outbox: {table} is compared when one starts, as always"
        )


@app.command("baseline", epilog="Example: replicator feed baseline change_example.mytable")
def baseline(
    table: _Table,
    *,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    is_dry: IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Let the next snapshot record changed documents instead of publishing them. Asks first.

    For a change of include_fields or exclude_fields, after which every document looks changed.
    Stop the replicator first; it takes effect at the next start. Changes made while it is
    stopped are then recorded and not published either. Who gave this command is recorded.
    """
    settings = options.settings_from(config, outbox__url=outbox)
    # A table that is not there is told before anybody is asked.
    take_as_baseline(settings.outbox.url, table, is_dry=True)
    if not (is_sure or is_dry):
        ask(f"Publish nothing of what has changed in {table} until the next start?")
    take_as_baseline(settings.outbox.url, table, is_dry=is_dry)
    if as_json:
        output.print_object({"table": table, "baseline": "next start", "dry_run": is_dry})
    elif is_dry:
        output.console().print(f"{table}: would be taken as it is at the next start")
    else:
        output.console().print(
            f"the first snapshot of {table} after the next start records what changed "
            "instead of publishing it"
        )
    if lock_holder(settings.outbox.url) is not None:
        output.note(
            "a replicator runs on this outbox now: stop it and give this command again, since a "
            "resync before the stop would use it up"
        )
