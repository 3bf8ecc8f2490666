"""``replicator outbox …``: what is not yet confirmed."""

import itertools
import time
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from replicator.cli import entries as change
from replicator.cli import export, options, output
from replicator.cli.naming import OfState, OfTable, complete_entry, entry_numbers
from replicator.operators import listing as inspect
from replicator.operators.listing import EntryRow, Group, Selection

app = typer.Typer(
    help="The outbox: the messages that RabbitMQ has not confirmed yet.",
    epilog="Example: replicator outbox list --state parked",
    no_args_is_help=True,
)


def _age(captured_at: int, now: float) -> float:
    return round(max(0.0, now - captured_at / 1e6), 3)


def _facts(entry: EntryRow, now: float) -> dict[str, Any]:
    return {
        "id": entry.id,
        "message_id": entry.message_id,
        "table": entry.table,
        "op": entry.op,
        "origin": entry.origin,
        "key": msgspec.Raw(entry.key.encode()),
        "state": entry.state,
        "captured_at": output.instant(entry.captured_at),
        "age_seconds": _age(entry.captured_at, now),
        "attempts": entry.attempts,
        "reason": entry.reason,
        "last_error": entry.last_error,
        "bytes": entry.bytes,
    }


@app.command("list", epilog="Example: replicator outbox list --table change_example.mytable")
def list_entries(  # noqa: PLR0913 -- an argument for each option
    *,
    state: OfState = None,
    table: OfTable = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Only this document: its primary key."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=options.MOST_ROWS, help="At most so many.")
    ] = 100,
    after: options.AfterEntry = "0",
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List entries, oldest first."""
    settings = options.settings_from(config, outbox__url=outbox)
    now = time.time()
    (behind,) = entry_numbers(settings.outbox.url, [after])
    selection = Selection(state.value if state else None, table, key)
    with inspect.reading(settings.outbox.url) as connection:
        # One more than asked for tells whether there are more.
        found = inspect.list_entries(connection, selection, after=behind, limit=limit + 1)
        shown = list(itertools.islice(found, limit))
        has_more = next(found, None) is not None
    if as_json:
        output.print_lines(_facts(entry, now) for entry in shown)
    else:
        _print_entries(shown, now)
    if has_more:
        output.note(f"there are more: --after {shown[-1].id}")


def _print_entries(found: Iterable[EntryRow], now: float) -> None:
    output.print_table(
        ["#id", "table", "op", "…key", "state", "age", "#attempts", "…last error"],
        (
            (
                entry.id,
                entry.table,
                entry.op,
                entry.key,
                entry.state,
                output.human_seconds(_age(entry.captured_at, now)),
                entry.attempts,
                entry.last_error,
            )
            for entry in found
        ),
        empty="no such entries: everything selected is confirmed",
    )


@app.command("show", epilog="Example: replicator outbox show 1024")
def show(
    number: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The entry's number, or a message id.",
            autocompletion=complete_entry,
        ),
    ],
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Show one entry whole."""
    settings = options.settings_from(config, outbox__url=outbox)
    (wanted,) = entry_numbers(settings.outbox.url, [number])
    with inspect.reading(settings.outbox.url) as connection:
        entry, body = inspect.show_entry(connection, wanted)
    facts = _facts(entry, time.time())
    if as_json:
        output.print_object(facts | {"body": output.raw_or_text(body)})
        return
    out = output.console()
    for name, value in facts.items():
        if value is not None:
            shown = entry.key if name == "key" else value
            out.print(
                Text.assemble((f"{name.replace('_', ' '):12} ", "bold"), str(shown)), soft_wrap=True
            )
    out.print(Text(output.pretty(body)), soft_wrap=True)


@app.command("stats", epilog="Example: replicator outbox stats --json")
def stats(
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Count entries and bytes by table and state."""
    settings = options.settings_from(config, outbox__url=outbox)
    with inspect.reading(settings.outbox.url) as connection:
        groups = inspect.stats(connection)
    now = time.time()
    if as_json:
        output.print_lines(_group_facts(group, now) for group in groups)
        return
    output.print_table(
        ["table", "state", "#entries", "#bytes", "oldest"],
        (
            (
                group.table,
                group.state,
                f"{group.entries:,}",
                output.human_bytes(group.bytes),
                output.human_seconds(_age(group.oldest_captured_at, now)),
            )
            for group in groups
        ),
        empty="the outbox is empty: everything is confirmed",
    )


def _group_facts(group: Group, now: float) -> dict[str, Any]:
    return {
        "table": group.table,
        "state": group.state,
        "entries": group.entries,
        "bytes": group.bytes,
        "oldest_captured_at": output.instant(group.oldest_captured_at),
        "oldest_age_seconds": _age(group.oldest_captured_at, now),
    }


change.add_to(app)
export.add_to(app)
