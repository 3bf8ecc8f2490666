"""``replicator feed …``: the tables' feeds, their checkpoints and their gaps."""

import time
from typing import Annotated

import msgspec
import typer

from replicator.cli import naming, options, output, summary
from replicator.cli.output import Facts
from replicator.domain.instants import shown
from replicator.domain.words import count
from replicator.operators import listing
from replicator.operators.feeds import (
    accept_deletes,
    held_back,
    request_resync,
    take_as_baseline,
)
from replicator.operators.listing import GapRow
from replicator.web.facts import feed_facts

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
    database = options.database_from(config, outbox)
    with database.reading() as connection:
        found = listing.list_feeds(connection)
    output.print_rows(
        map(feed_facts, found),
        summary.FEEDS,
        as_json=as_json,
        empty="no feeds yet: they are made by `replicator run`",
    )
    if found and not as_json and database.user() is None:
        output.note("no replicator runs on this outbox: these states are the last it wrote down")


@app.command("gaps", epilog="Example: replicator feed gaps --table change_example.mytable")
def gaps(
    *,
    table: naming.OfTable = None,
    limit: Annotated[int, options.limit("Show the newest N.")] = 100,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List the times in which versions of documents may have been missed, and their repair.

    After a repair every document's latest state was published; RethinkDB keeps no history, so
    states in between may never have been seen.
    """
    with options.database_from(config, outbox).reading() as connection:
        found = listing.list_gaps(connection, table=table, limit=limit)
    output.print_rows(
        map(_gap_facts, found),
        [
            "table",
            "cause",
            "from",
            ("to", lambda facts: facts["to"] or "not repaired yet"),
            "lasted=seconds",
            "#created",
            "#updated",
            "#deleted",
            "#skipped",
        ],
        as_json=as_json,
        empty="no gaps",
    )


def _gap_facts(gap: GapRow) -> Facts:
    until = gap.closed_at / 1e6 if gap.closed_at is not None else time.time()
    return output.facts_of(gap, "id table cause created updated deleted skipped") | {
        "from": shown(gap.opened_at),
        "to": shown(gap.closed_at),
        "seconds": round(max(0.0, until - gap.opened_at / 1e6), 3),
    }


@app.command("resync", epilog="Example: replicator feed resync change_example.mytable")
def resync(
    table: naming.Table,
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Compare a table with the document index now, and publish the differences.

    A running service opens the feed again within seconds, with a new snapshot, and records a gap
    of the cause `requested`. Without one there is nothing to wait for: every start is a resync.
    """
    database = options.database_from(config, outbox)
    request_resync(database, table)
    is_running = database.user() is not None
    if as_json:
        output.print_object({"table": table, "resync": "now" if is_running else "next start"})
    elif is_running:
        output.say(f"the feed of {table} is opened again within seconds")
    else:
        output.say(
            f"no replicator runs on this outbox: {table} is compared when one starts, as always"
        )


@app.command("baseline", epilog="Example: replicator feed baseline change_example.mytable")
def baseline(
    table: naming.Table,
    *,
    is_sure: options.IsSure = False,
    is_dry: options.IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Let the next snapshot record changed documents instead of publishing them. Asks first.

    For a change of include_fields or exclude_fields, after which every document looks changed.
    Stop the replicator first; it takes effect at the next start. Changes made while it is
    stopped are then recorded and not published either. Who gave this command is recorded.
    """
    database = options.database_from(config, outbox)
    # A table without a feed is reported before anybody is asked.
    take_as_baseline(database, table, is_dry=True)
    if not (is_sure or is_dry):
        naming.ask(f"Publish nothing of what has changed in {table} until the next start?")
    take_as_baseline(database, table, is_dry=is_dry)
    if as_json:
        output.print_object({"table": table, "baseline": "next start", "dry_run": is_dry})
    elif is_dry:
        output.say(f"{table}: would be taken as it is at the next start")
    else:
        output.say(
            f"the first snapshot of {table} after the next start records what changed "
            "instead of publishing it"
        )
    if database.user() is not None:
        output.note(
            "a replicator runs on this outbox now: stop it and give this command again, since a "
            "resync before the stop would use it up"
        )


@app.command(
    "accept-deletes",
    epilog="Example: replicator feed accept-deletes change_example.mytable --dry-run",
)
def accept(
    table: naming.Table,
    *,
    is_sure: options.IsSure = False,
    is_dry: options.IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Let deletes go that the guard holds back (tables[].delete_guard). Asks first.

    For a feed in the state `guarded`: its comparison found so many documents gone that the server
    may be the wrong one. Accepts as many deletes as are held back now, and no more, for this
    comparison or the next. --dry-run shows how many, and some of the documents. Who gave this
    command is recorded.
    """
    database = options.database_from(config, outbox)
    guard = held_back(database, table)
    deletes = count(guard.deletes, "delete", "deletes")
    if not as_json:
        output.note(
            f"{deletes} of {table}, found {shown(guard.at)}, when the index had "
            f"{count(guard.documents, 'document', 'documents')}; the first of them:"
        )
        for key in guard.keys:
            output.note(f"  {key}")
    if not (is_sure or is_dry):
        naming.ask(f"Publish {deletes} of {table}?")
    if not is_dry:
        accept_deletes(database, table, guard)
    if as_json:
        facts = output.facts_of(guard, "at deletes documents")
        keys = [msgspec.Raw(key.encode()) for key in guard.keys]
        output.print_object({"table": table, **facts, "keys": keys, "dry_run": is_dry})
    elif is_dry:
        output.say(f"{table}: {deletes} would be published")
    elif database.user() is not None:
        output.say(f"{table}: {deletes} are published from now on")
    else:
        output.say(
            f"no replicator runs on this outbox: when one starts, it compares {table} again, and "
            f"publishes up to {deletes}"
        )
