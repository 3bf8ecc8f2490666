"""``replicator outbox redrive``, ``park``, ``discard`` and ``history``: what operators do."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import typer

from replicator.cli import naming, options, output
from replicator.cli.output import Facts
from replicator.errors import ReplicatorError
from replicator.operators import entries
from replicator.operators.entries import Changed
from replicator.operators.listing import EntryRow
from replicator.outbox import orders
from replicator.outbox.orders import OPERATOR, Action, Order
from replicator.outbox.port import Database

_MAX_SHOWN: Final = 20
_BECOMES: Final = {Action.REDRIVE: "pending", Action.PARK: "parked", Action.DISCARD: None}
_SAYS: Final = {
    Action.REDRIVE: ("pending again", "is pending already"),
    Action.PARK: ("parked", "is parked already"),
    Action.DISCARD: ("discarded for good", ""),
}


def redrive(
    numbers: Annotated[list[str] | None, naming.entries("[ID]...", "parked")] = None,
    *,
    is_all: Annotated[bool, typer.Option("--all", help="Every parked entry.")] = False,
    table: naming.OfTable = None,
    is_dry: options.IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Make parked entries pending again; a running service publishes them within seconds.

    An entry is said to be superseded when its document has another state now: it delivers an old
    state late, which a consumer that compares entry numbers drops, unless the present state waits
    in the outbox too and follows.
    """
    if is_all == bool(numbers):
        raise typer.BadParameter("name entries or give --all" + (", not both" if is_all else ""))
    if table is not None and not is_all:
        raise typer.BadParameter("--table goes with --all")
    database = options.database_from(config, outbox)
    if numbers:
        chosen = naming.entry_numbers(database, numbers)
        done = entries.redrive(database, chosen, is_dry=is_dry)
        _show(Action.REDRIVE, done, is_dry=is_dry, as_json=as_json)
    else:
        _redrive_all(database, table, is_dry=is_dry, as_json=as_json)


def _redrive_all(database: Database, table: str | None, *, is_dry: bool, as_json: bool) -> None:
    done, superseded = 0, 0

    def so_far() -> str:
        verb = "would be" if is_dry else "is" if done == 1 else "are"
        return f"{done:,} {'entry' if done == 1 else 'entries'} {verb} pending again"

    try:
        for step in entries.redrive_all(database, table, is_dry=is_dry):
            done += len(step)
            superseded += sum(1 for each in step if each.is_superseded)
            if as_json:
                _show(Action.REDRIVE, step, is_dry=is_dry, as_json=True)
            elif sys.stderr.isatty():
                output.note(so_far())
    except (ReplicatorError, KeyboardInterrupt):
        if done and not is_dry:
            output.note(f"{so_far()}; for the rest give the command once more")
        raise
    if not as_json:
        output.say(f"{so_far()}, {superseded:,} of them superseded")


def park(
    numbers: Annotated[list[str], naming.entries("ID...", "pending")],
    *,
    is_dry: options.IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Set entries aside: they are kept and not published, and later ones of the document go on."""
    database = options.database_from(config, outbox)
    done = entries.park(database, naming.entry_numbers(database, numbers), is_dry=is_dry)
    _show(Action.PARK, done, is_dry=is_dry, as_json=as_json)
    _warn_of_flight(database, [each for each in done if each.is_changed])


def discard(
    numbers: Annotated[list[str], naming.entries("ID...")],
    *,
    is_sure: options.IsSure = False,
    is_dry: options.IsDry = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Drop entries for good: nobody will get them. Asks first; who dropped what is recorded.

    A resync does not bring them back: the index has their state as captured. `outbox export`
    keeps a copy.
    """
    database = options.database_from(config, outbox)
    chosen = naming.entry_numbers(database, numbers)
    if not (is_sure or is_dry):
        with database.reading() as connection:
            found = entries.look_up(connection, chosen)
        _ask(found)
    done = entries.discard(database, chosen, is_dry=is_dry)
    _show(Action.DISCARD, done, is_dry=is_dry, as_json=as_json)
    _warn_of_flight(database, done)


def history(
    *,
    limit: Annotated[int, options.limit("Show the newest N.")] = 100,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """List what operators did: who redrove, parked or discarded what, or asked for a resync."""
    with options.database_from(config, outbox).reading() as connection:
        found = orders.newest(connection, limit=limit)
    output.print_rows(
        map(_order_facts, found),
        [
            *("at", "by", "did=action", "table", "#first entry", "#last entry", "op", "…key"),
            *("was", "#deletes"),
        ],
        as_json=as_json,
        empty="no operator has changed anything",
    )


def _ask(found: Sequence[EntryRow]) -> None:
    # Even where nobody can be asked: the log of a pipeline then shows what it was about.
    for row in found[:_MAX_SHOWN]:
        output.note(f"{row.id}: {_named(row)}, {row.state}")
    if len(found) > _MAX_SHOWN:
        output.note(f"and {len(found) - _MAX_SHOWN:,} more")
    count = "this entry" if len(found) == 1 else f"these {len(found):,} entries"
    naming.ask(f"Drop {count} for good?")


def _warn_of_flight(database: Database, done: Iterable[Changed]) -> None:
    """Say that a running service may still deliver what it is publishing."""
    may_be_out = any(
        each.entry.state == "pending" or each.entry.reason == OPERATOR for each in done
    )
    if may_be_out and database.user() is not None:
        output.note(
            "a replicator runs on this outbox: what it is publishing at this moment may still be "
            "delivered"
        )


def _named(row: EntryRow) -> str:
    return f"{row.op} of {row.table} {row.key}"


def _show(action: Action, done: Sequence[Changed], *, is_dry: bool, as_json: bool) -> None:
    if as_json:
        output.print_lines(_facts(action, each, is_dry=is_dry) for each in done)
        return
    does, already = _SAYS[action]
    for each in done:
        words = f"{'would be' if is_dry else 'is'} {does}" if each.is_changed else already
        if each.is_superseded:
            words += "; superseded: its document has another state now"
        elif each.is_changed and action is Action.REDRIVE and each.is_superseded is None:
            words += "; whether it is superseded cannot be told"
        output.say(f"{each.entry.id} {words} ({_named(each.entry)})")


def _facts(action: Action, each: Changed, *, is_dry: bool) -> Facts:
    facts = output.facts_of(each.entry, "id message_id table op key") | {
        "was": each.entry.state,
        "state": _BECOMES[action],
        "changed": each.is_changed,
        "dry_run": is_dry,
    }
    if action is Action.REDRIVE:
        facts["superseded"] = each.is_superseded
    return facts


def _order_facts(order: Order) -> Facts:
    keys = "id at action table first_entry last_entry entries op key captured_at was deletes"
    return output.facts_of(order, keys) | {"by": order.actor}
