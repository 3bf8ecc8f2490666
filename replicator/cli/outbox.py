"""``replicator outbox …``: what RabbitMQ has not confirmed yet."""

import itertools
import time
from typing import Annotated

import typer

from replicator.cli import entries, export, naming, options, output
from replicator.cli.output import Facts
from replicator.operators import listing
from replicator.operators.listing import EntryRow, Group, Selection

app = typer.Typer(
    help="The outbox: the messages that RabbitMQ has not confirmed yet.",
    epilog="Example: replicator outbox list --state parked",
    no_args_is_help=True,
)


@app.command("list", epilog="Example: replicator outbox list --table change_example.mytable")
def list_entries(  # noqa: PLR0913 -- an argument for each option
    *,
    state: naming.OfState = None,
    table: naming.OfTable = None,
    key: naming.OfKey = None,
    limit: Annotated[int, options.limit("Show at most N.")] = 100,
    after: naming.After = "0",
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List entries, oldest first."""
    database = options.database_from(config, outbox)
    (first,) = naming.entry_numbers(database, [after])
    now = time.time()
    with database.reading() as connection:
        # One more than asked for tells whether there are more.
        found = listing.list_entries(
            connection, Selection(state, table, key), after=first, limit=limit + 1
        )
        rows = list(itertools.islice(found, limit))
        has_more = next(found, None) is not None
    output.print_rows(
        (_facts(row, now) for row in rows),
        ["#id", "table", "op", "…key", "state", "age=age_seconds", "#attempts", "…last error"],
        as_json=as_json,
        empty=naming.NO_ENTRIES,
    )
    if has_more:
        output.note(f"there are more: --after {rows[-1].id}")


@app.command("show", epilog="Example: replicator outbox show 1024")
def show(
    number: Annotated[str, naming.entries("ID")],
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Show one entry whole."""
    database = options.database_from(config, outbox)
    (wanted,) = naming.entry_numbers(database, [number])
    with database.reading() as connection:
        row, body = listing.show_entry(connection, wanted)
    facts = _facts(row, time.time())
    if as_json:
        output.print_object(facts | {"body": output.raw_or_text(body)})
        return
    for name, value in (facts | {"key": row.key}).items():
        if value is not None:
            output.say(output.words((f"{name.replace('_', ' '):12} ", "bold"), str(value)))
    output.say_body(body)


@app.command("stats", epilog="Example: replicator outbox stats --json")
def stats(
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Count entries and bytes by table and state."""
    with options.database_from(config, outbox).reading() as connection:
        groups = listing.stats(connection)
    now = time.time()
    output.print_rows(
        (_group_facts(group, now) for group in groups),
        ["table", "state", ",entries", "#bytes", "oldest=oldest_age_seconds"],
        as_json=as_json,
        empty="the outbox is empty: everything is confirmed",
    )


def _facts(row: EntryRow, now: float) -> Facts:
    keys = "id message_id table op origin key state captured_at attempts reason last_error bytes"
    return output.facts_of(row, keys) | {"age_seconds": _age(row.captured_at, now)}


def _group_facts(group: Group, now: float) -> Facts:
    facts = output.facts_of(group, "table state entries bytes oldest_captured_at")
    return facts | {"oldest_age_seconds": _age(group.oldest_captured_at, now)}


def _age(captured_at: int, now: float) -> float:
    return round(max(0.0, now - captured_at / 1e6), 3)


app.command("redrive", epilog="Example: replicator outbox redrive 1024 1025")(entries.redrive)
app.command("park", epilog="Example: replicator outbox park 1024")(entries.park)
app.command("discard", epilog="Example: replicator outbox discard 1024 --dry-run")(entries.discard)
app.command("history", epilog="Example: replicator outbox history --limit 20")(entries.history)
app.command("export", epilog="Example: replicator outbox export --state parked > parked.jsonl")(
    export.export_entries
)
