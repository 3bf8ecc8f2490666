"""``replicator outbox redrive``, ``park``, ``discard`` and ``history``: what operators do."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from replicator.cli import options, output
from replicator.cli.naming import (
    IsDry,
    OfTable,
    ask,
    complete_entry,
    complete_parked,
    complete_pending,
    entry_numbers,
)
from replicator.config import Settings
from replicator.errors import ReplicatorError
from replicator.operators import entries as change
from replicator.operators import listing as inspect
from replicator.operators.entries import Change
from replicator.outbox import feeds
from replicator.outbox import orders as operations
from replicator.outbox.orders import OPERATOR
from replicator.outbox.sqlite.check import lock_holder

_MOST_SHOWN: Final = 20
_BECOMES: Final = {"redrive": "pending", "park": "parked", "discard": None}
_SAYS: Final = {
    "redrive": ("pending again", "is pending already"),
    "park": ("parked", "is parked already"),
    "discard": ("discarded for good", ""),
}
_IN_FLIGHT: Final = (
    "a replicator runs on this outbox: what it is publishing at this moment may still be delivered"
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("redrive", epilog="Example: replicator outbox redrive 1024 1025")(redrive)
    app.command("park", epilog="Example: replicator outbox park 1024")(park)
    app.command("discard", epilog="Example: replicator outbox discard 1024 --dry-run")(discard)
    app.command("history", epilog="Example: replicator outbox history --limit 20")(history)


def redrive(
    numbers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...",
            help="Numbers of entries, or message ids.",
            autocompletion=complete_parked,
        ),
    ] = None,
    *,
    is_all: Annotated[bool, typer.Option("--all", help="Every parked entry.")] = False,
    table: OfTable = None,
    is_dry: IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Let parked entries be published again; a running service takes them up within seconds.

    An entry is said to be superseded when a newer state of its document is confirmed: it then
    delivers an old state late, which a consumer that compares entry numbers drops.
    """
    if is_all == bool(numbers):
        raise typer.BadParameter("name entries or give --all" + (", not both" if is_all else ""))
    if table is not None and not is_all:
        raise typer.BadParameter("--table goes with --all")
    settings = options.settings_from(config, outbox__url=outbox)
    url = settings.outbox.url
    if numbers:
        _show(
            "redrive",
            change.redrive(url, entry_numbers(url, numbers), is_dry=is_dry),
            is_dry=is_dry,
            as_json=as_json,
        )
        return
    _redrive_all(url, table, is_dry=is_dry, as_json=as_json)


def _redrive_all(url: str, table: str | None, *, is_dry: bool, as_json: bool) -> None:
    done, superseded = 0, 0

    def so_far() -> str:
        verb = "would be" if is_dry else "is" if done == 1 else "are"
        return f"{done:,} {'entry' if done == 1 else 'entries'} {verb} pending again"

    try:
        for changes in change.redrive_all(url, table, is_dry=is_dry):
            done += len(changes)
            superseded += sum(1 for each in changes if each.is_superseded)
            if as_json:
                output.print_lines(_facts("redrive", each, is_dry=is_dry) for each in changes)
            elif sys.stderr.isatty():
                output.note(so_far())
    except (ReplicatorError, KeyboardInterrupt):
        if done and not is_dry:
            output.note(f"{so_far()}; for the rest give the command once more")
        raise
    if not as_json:
        output.console().print(f"{so_far()}, {superseded:,} of them superseded")


def park(
    numbers: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...",
            help="Numbers of entries, or message ids.",
            autocompletion=complete_pending,
        ),
    ],
    *,
    is_dry: IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Set entries aside: they are kept and not published, and later ones of the document go on."""
    url = options.settings_from(config, outbox__url=outbox).outbox.url
    done = change.park(url, entry_numbers(url, numbers), is_dry=is_dry)
    _show("park", done, is_dry=is_dry, as_json=as_json)
    _warn_of_flight(url, [each for each in done if each.is_changed])


def discard(
    numbers: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...",
            help="Numbers of entries, or message ids.",
            autocompletion=complete_entry,
        ),
    ],
    *,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    is_dry: IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Drop entries for good: nobody will get them. Asks first; who dropped what is recorded.

    A resync does not bring them back: the index has their state as captured. `outbox export`
    keeps a copy.
    """
    url = options.settings_from(config, outbox__url=outbox).outbox.url
    chosen = entry_numbers(url, numbers)
    if not (is_sure or is_dry):
        _ask(change.look_up(url, chosen))
    done = change.discard(url, chosen, is_dry=is_dry)
    _show("discard", done, is_dry=is_dry, as_json=as_json)
    _warn_of_flight(url, done)


def _ask(found: Sequence[inspect.EntryRow]) -> None:
    # Also where nobody can be asked: the log of a pipeline then shows what it was about.
    for row in found[:_MOST_SHOWN]:
        output.note(_named(row))
    if len(found) > _MOST_SHOWN:
        output.note(f"and {len(found) - _MOST_SHOWN:,} more")
    count = "this entry" if len(found) == 1 else f"these {len(found):,} entries"
    ask(f"Drop {count} for good?")


def _warn_of_flight(url: str, done: Iterable[Change]) -> None:
    """Say that what a service had in memory could not be called back for certain."""
    may_be_out = any(
        each.entry.state == "pending" or each.entry.reason == OPERATOR for each in done
    )
    if may_be_out and lock_holder(url) is not None:
        output.note(_IN_FLIGHT)


def _named(row: inspect.EntryRow) -> str:
    return f"{row.id}: {row.op} of {row.table} {row.key}, {row.state}"


def _show(action: str, done: Sequence[Change], *, is_dry: bool, as_json: bool) -> None:
    if as_json:
        output.print_lines(_facts(action, each, is_dry=is_dry) for each in done)
        return
    does, already = _SAYS[action]
    out = output.console()
    for each in done:
        words = f"{'would be' if is_dry else 'is'} {does}" if each.is_changed else already
        if each.is_superseded:
            words += "; superseded: a newer state of its document is confirmed"
        elif each.is_changed and action == "redrive" and each.is_superseded is None:
            words += "; whether it is superseded cannot be told"
        row = each.entry
        out.print(
            f"{row.id} {words} ({row.op} of {row.table} {row.key})", markup=False, soft_wrap=True
        )


def _facts(action: str, each: Change, *, is_dry: bool) -> dict[str, Any]:
    row = each.entry
    facts = {
        "id": row.id,
        "message_id": row.message_id,
        "table": row.table,
        "op": row.op,
        "key": msgspec.Raw(row.key.encode()),
        "was": row.state,
        "state": _BECOMES[action],
        "changed": each.is_changed,
        "dry_run": is_dry,
    }
    if action == "redrive":
        facts["superseded"] = each.is_superseded
    return facts


def history(
    *,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=options.MOST_ROWS, help="The newest so many.")
    ] = 100,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List what operators did: who redrove, parked or discarded what, and asked for a resync."""
    settings = options.settings_from(config, outbox__url=outbox)
    found = _recorded(settings, limit)
    if as_json:
        output.print_lines(found)
        return
    output.print_table(
        ["at", "by", "did", "table", "#from", "#to", "op", "…key", "was"],
        (
            (
                each["at"],
                each["by"],
                each["action"],
                each["table"],
                each["first_entry"],
                each["last_entry"],
                each["op"],
                None if each["key"] is None else bytes(each["key"]).decode(),
                each["was"],
            )
            for each in found
        ),
        empty="no operator has changed anything",
    )


def _recorded(settings: Settings, limit: int) -> list[dict[str, Any]]:
    with inspect.reading(settings.outbox.url) as connection:
        rows = operations.newest(connection, limit=min(limit, inspect.MOST_NUMBER))
        names = feeds.names(connection)
    return [
        {
            "id": row.id,
            "at": output.instant(row.at),
            "by": row.actor,
            "action": row.action.value,
            "table": None if row.feed_id is None else str(names.get(row.feed_id)),
            "first_entry": row.first_entry,
            "last_entry": row.last_entry,
            "entries": row.entries,
            "op": row.op and row.op.value,
            "key": None if row.key is None else msgspec.Raw(row.key.encode()),
            "captured_at": output.instant(row.captured_at),
            "was": row.was,
        }
        for row in rows
    ]
