"""What operators do to entries: redrive, park, discard. Recorded in the transaction that does it.

Safe while the service runs, which notices within seconds (`replicator.store.orders`). Entries that
one command names are changed in one transaction, or not at all. Only redriving all entries takes
several transactions, so that the service can write in between.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, delete, select, update

from replicator.domain.envelope import NULL, new_document
from replicator.domain.index import DELETED
from replicator.domain.ranges import runs
from replicator.domain.reconcile import digest
from replicator.operators.listing import (
    EntryRow,
    Selection,
    conditions_of,
    find_entries,
    unknown,
)
from replicator.outbox import orders
from replicator.outbox.orders import OPERATOR, Action
from replicator.outbox.port import Database
from replicator.outbox.schema import PARKED, PENDING, documents, entries
from replicator.retry import Retrying

_STEP_ENTRIES: Final = 1000
_NEEDED_STATE: Final = {Action.REDRIVE: PARKED, Action.PARK: PENDING}

_MAX_ATTEMPTS: Final = 3

Given = ParamSpec("Given")
Result = TypeVar("Result")


def patiently(action: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate an action that writes: try it again while the service keeps the right to write.

    Each attempt waits for that right (`Database.writing`).
    """

    @functools.wraps(action)
    def patient(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        retrying = Retrying(max_attempts=_MAX_ATTEMPTS)
        return retrying.until_done(functools.partial(action, *args, **kwargs))

    return patient


class Changed(NamedTuple):
    """What was done to an entry."""

    entry: EntryRow  # as it was before
    is_changed: bool  # False: nothing had to be done
    is_superseded: bool | None = None  # of a redriven entry; None: unknown


def look_up(
    connection: Connection, numbers: Sequence[int], *, are_all_needed: bool = True
) -> list[EntryRow]:
    """Return entries in the order of their numbers, each once.

    Raises:
        EntryUnknown: one of them is missing, and all are needed.
    """
    found = [row for some in _in_steps(numbers) for row in find_entries(connection, some)]
    missing = sorted(set(numbers) - {row.id for row in found})
    if missing and are_all_needed:
        raise unknown(missing, "; nothing was changed")
    return found


def redrive(database: Database, numbers: Sequence[int], *, is_dry: bool = False) -> list[Changed]:
    """Make parked entries pending again, all of them or none; safe to repeat.

    Raises:
        EntryUnknown: one of them is missing.
        see `Database.writing` for the rest.
    """
    with database.reading() as connection:
        superseded = _superseded(connection, numbers)
    done = _change(database, numbers, Action.REDRIVE, is_dry=is_dry)
    return [each._replace(is_superseded=superseded.get(each.entry.id)) for each in done]


def redrive_all(
    database: Database, table: str | None = None, *, is_dry: bool = False
) -> Iterator[list[Changed]]:
    """Make all parked entries pending again, a thousand in a transaction; yields each thousand.

    An entry that is parked again meanwhile is not redriven a second time. What was yielded is
    done: after a failure, repeat the command to go on.

    Raises:
        TableUnusable: the outbox has no feed of this table.
        see `Database.writing` for the rest.
    """
    with database.reading() as connection:
        conditions = conditions_of(connection, Selection(PARKED, table))
        query = select(entries.c.id).where(*conditions).order_by(entries.c.id).limit(_STEP_ENTRIES)
        after = 0
        while numbers := connection.scalars(query.where(entries.c.id > after)).all():
            after = numbers[-1]
            superseded = _superseded(connection, numbers)
            done = _change(database, numbers, Action.REDRIVE, is_dry=is_dry, are_all_needed=False)
            yield [
                each._replace(is_superseded=superseded.get(each.entry.id))
                for each in done
                if each.is_changed
            ]


def park(database: Database, numbers: Sequence[int], *, is_dry: bool = False) -> list[Changed]:
    """Set pending entries aside, all of them or none; safe to repeat.

    What the running service is publishing at this moment may still be delivered.

    Raises:
        see `redrive`.
    """
    return _change(database, numbers, Action.PARK, is_dry=is_dry)


def discard(database: Database, numbers: Sequence[int], *, is_dry: bool = False) -> list[Changed]:
    """Drop entries for good, all of them or none; what is being published may still be delivered.

    Raises:
        see `redrive`.
    """
    return _change(database, numbers, Action.DISCARD, is_dry=is_dry)


@patiently
def _change(
    database: Database,
    numbers: Sequence[int],
    action: Action,
    *,
    is_dry: bool,
    are_all_needed: bool = True,
) -> list[Changed]:
    with database.reading() if is_dry else database.writing() as connection:
        found = look_up(connection, numbers, are_all_needed=are_all_needed)
        done = [Changed(row, row.state == _NEEDED_STATE.get(action, row.state)) for row in found]
        if not is_dry:
            _apply(connection, action, [each.entry for each in done if each.is_changed])
    return done


def _apply(connection: Connection, action: Action, changed: Sequence[EntryRow]) -> None:
    match action:
        case Action.REDRIVE:
            change: Any = update(entries).values(state=PENDING, reason=None)
        case Action.PARK:
            change = update(entries).values(state=PARKED, reason=OPERATOR)
        case _:
            change = delete(entries)
    for some in _in_steps([row.id for row in changed]):
        connection.execute(change.where(some))
    orders.record(connection, action, _records(action, changed))


def _records(action: Action, changed: Sequence[EntryRow]) -> list[dict[str, Any]]:
    if action is Action.REDRIVE:
        # Nothing is lost by it, and there may be a million of them.
        return [
            {"first_entry": first, "last_entry": last, "was": PARKED}
            for first, last in runs(row.id for row in changed)
        ]
    return [
        {
            "feed_id": row.feed_id,
            "first_entry": row.id,
            "last_entry": row.id,
            "key": row.key,
            "op": row.op.value,
            "captured_at": row.captured_at,
            "was": row.state,
        }
        for row in changed
    ]


def _superseded(connection: Connection, numbers: Sequence[int]) -> dict[int, bool | None]:
    """Return which of these entries are parked and superseded now.

    Delivering such an entry takes its document back from the state that was captured last. If that
    state waits in the outbox too, it follows: the outbox does not know what consumers have.
    """
    query = (
        select(entries.c.id, entries.c.body, documents.c.digest)
        .outerjoin_from(
            entries,
            documents,
            (documents.c.feed_id == entries.c.feed_id) & (documents.c.key == entries.c.key),
        )
        .where(entries.c.state == PARKED)
    )
    found: dict[int, bool | None] = {}
    for some in _in_steps(numbers):
        with connection.execute(query.where(some)) as rows:
            found |= {number: _differs(body, indexed) for number, body, indexed in rows}
    return found


def _differs(body: object, indexed: object) -> bool | None:
    """Return whether a body's new state differs from the index's; None: the body does not say."""
    if not isinstance(body, bytes):
        return None
    try:
        document = new_document(body)
    except ValueError:
        return None
    state = None if document == NULL else digest(document)
    return state != (None if indexed == DELETED else indexed)


def _in_steps(numbers: Sequence[int]) -> Iterator[ColumnElement[bool]]:
    """Return conditions that together select all of these numbers, in growing order.

    Several, because a statement takes a limited number of values.
    """
    wanted = sorted(set(numbers))
    for start in range(0, len(wanted), _STEP_ENTRIES):
        yield entries.c.id.in_(wanted[start : start + _STEP_ENTRIES])
