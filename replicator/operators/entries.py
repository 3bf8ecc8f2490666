"""What operators do to entries: redrive, park, discard. Recorded in the transaction that does it.

Safe while the service runs: it hears of it within seconds (`replicator.store.orders`). Nothing
is half done: whatever is named together is changed in one transaction, or not at all. Only to
redrive all goes in several, each of them whole, so that the service can write in between.
"""

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, select, update

from replicator.domain.ranges import runs
from replicator.errors import EntryUnknown
from replicator.operators.listing import (
    ENTRY_COLUMNS,
    EntryRow,
    Selection,
    StoredEntry,
    conditions_of,
    entry_row,
    outbox_id,
    reading,
)
from replicator.operators.supersession import Supersession
from replicator.outbox import feeds
from replicator.outbox import orders as operations
from replicator.outbox.migrations import require_current
from replicator.outbox.orders import OPERATOR, Action
from replicator.outbox.records import sound
from replicator.outbox.schema import PARKED, PENDING, entries
from replicator.outbox.sqlite.connection import database_path, open_engine, translated
from replicator.retry import Result, Retrying

_STEP_ENTRIES: Final = 1000
# To look for newer entries of their documents, the whole outbox is read. It is done for so many at
# once, which bounds the temporary space.
_LOOK_ENTRIES: Final = 50_000
_SOME: Final = 5
_ATTEMPTS: Final = 3  # each waits five seconds for a lock


class Change(NamedTuple):
    """What was done to an entry."""

    entry: EntryRow  # as it was before
    is_changed: bool  # False: there was nothing to do
    is_superseded: bool | None = None  # of a redriven one; None: it cannot be told


def actor() -> str:
    """Return who gives the command, as ``user@host``; a user without a name by its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def look_up(url: str, numbers: Sequence[int]) -> list[EntryRow]:
    """Return entries in the order of their numbers, each once.

    Raises:
        EntryUnknown: one of them is not there.
        OutboxMissing, OutboxOutdated, OutboxTooNew, OutboxUnusable, OutboxUnavailable: as they say.
    """
    with reading(url) as connection:
        return [row for row, _ in _found(connection, numbers)]


def redrive(url: str, numbers: Sequence[int], *, is_dry: bool = False) -> list[Change]:
    """Make parked entries pending again, all of them or none; safe to repeat.

    Raises:
        see `look_up`.
    """
    with reading(url) as connection:
        parked = [row.id for row, _ in _found(connection, numbers) if row.state == PARKED]
        with _looking(connection, parked) as supersession:
            verdicts = _verdicts(supersession, parked)
    done = _changed(url, numbers, Action.REDRIVE, is_dry=is_dry)
    return [each._replace(is_superseded=verdicts.get(each.entry.id)) for each in done]


def redrive_all(
    url: str, table: str | None = None, *, is_dry: bool = False
) -> Iterator[list[Change]]:
    """Make all parked entries pending again, a thousand in a transaction; yields each of those.

    An entry that is parked again meanwhile is not redriven a second time. What was yielded is
    done: to go on after a failure, give the command again.

    Raises:
        TableUnusable: the outbox has no feed of this table.
        see `look_up` for the rest.
    """
    with reading(url) as connection:
        conditions = conditions_of(Selection(PARKED, table), feeds.names(connection))
        after = 0
        while numbers := _next(connection, conditions, after):
            after = numbers[-1]
            with _looking(connection, numbers) as supersession:
                for start in range(0, len(numbers), _STEP_ENTRIES):
                    step = numbers[start : start + _STEP_ENTRIES]
                    verdicts = _verdicts(supersession, step)
                    done = _changed(url, step, Action.REDRIVE, is_dry=is_dry, are_all_needed=False)
                    yield [
                        each._replace(is_superseded=verdicts[each.entry.id])
                        for each in done
                        if each.is_changed
                    ]


def _next(connection: Connection, conditions: Sequence[Any], after: int) -> Sequence[int]:
    query = select(entries.c.id).where(entries.c.id > after, *conditions)
    return connection.scalars(query.order_by(entries.c.id).limit(_LOOK_ENTRIES)).all()


@contextmanager
def _looking(connection: Connection, parked: Sequence[int]) -> Iterator[Supersession]:
    supersession = Supersession(
        connection, after=min(parked, default=1) - 1, up_to=max(parked, default=0)
    )
    try:
        yield supersession
    finally:
        supersession.close()


def _verdicts(supersession: Supersession, parked: Sequence[int]) -> dict[int, bool | None]:
    """Return which entries are superseded, as of now."""
    supersession.look()
    return {number: supersession.of(number) for number in sorted(parked)}


def park(url: str, numbers: Sequence[int], *, is_dry: bool = False) -> list[Change]:
    """Set pending entries aside, all of them or none; safe to repeat.

    What the running service is publishing at this moment may be delivered all the same.

    Raises:
        see `look_up`.
    """
    return _changed(url, numbers, Action.PARK, is_dry=is_dry)


def discard(url: str, numbers: Sequence[int], *, is_dry: bool = False) -> list[Change]:
    """Drop entries for good, all of them or none; like `park` for what is being published.

    Raises:
        see `look_up`.
    """
    return _changed(url, numbers, Action.DISCARD, is_dry=is_dry)


def _found(
    connection: Connection, numbers: Sequence[int], *, are_all_needed: bool = True
) -> list[tuple[EntryRow, int]]:
    """Return entries and their feeds."""
    names, identity = feeds.names(connection), outbox_id(connection) or ""
    wanted = sorted(set(numbers))
    rows: list[Any] = []
    for start in range(0, len(wanted), _STEP_ENTRIES):
        some = wanted[start : start + _STEP_ENTRIES]
        rows += connection.execute(
            select(*ENTRY_COLUMNS).where(entries.c.id.in_(some)).order_by(entries.c.id)
        ).all()
    found = sound(map(tuple, rows), StoredEntry, entries.name)
    missing = sorted(set(wanted) - {row.id for row in found})
    if missing and are_all_needed:
        more = f" and {len(missing) - _SOME} more" if len(missing) > _SOME else ""
        named = ", ".join(map(str, missing[:_SOME])) + more
        raise EntryUnknown(
            f"there is no entry {named} in this outbox; nothing was changed",
            hint="an entry goes when RabbitMQ has confirmed it; `replicator outbox list` shows "
            "those that are left",
        )
    return [(entry_row(row, names, identity), row.feed_id) for row in found]


def _changed(
    url: str,
    numbers: Sequence[int],
    action: Action,
    *,
    is_dry: bool,
    are_all_needed: bool = True,
) -> list[Change]:
    def change() -> list[Change]:
        with writing(url) as connection:
            found = _found(connection, numbers, are_all_needed=are_all_needed)
            to_do = [each for each in found if _is_to_do(action, each[0].state)]
            _apply(connection, action, [row.id for row, _ in to_do])
            operations.record(connection, _records(action, to_do))
            return [Change(row, _is_to_do(action, row.state)) for row, _ in found]

    if is_dry:
        with reading(url) as connection:
            found = _found(connection, numbers, are_all_needed=are_all_needed)
            return [Change(row, _is_to_do(action, row.state)) for row, _ in found]
    return patiently(change)


def _is_to_do(action: Action, state: str) -> bool:
    needed = {Action.REDRIVE: PARKED, Action.PARK: PENDING}
    return state == needed.get(action, state)


def _apply(connection: Connection, action: Action, numbers: Sequence[int]) -> None:
    for start in range(0, len(numbers), _STEP_ENTRIES):
        where = entries.c.id.in_(numbers[start : start + _STEP_ENTRIES])
        match action:
            case Action.REDRIVE:
                change: Any = update(entries).values(state=PENDING, reason=None)
            case Action.PARK:
                change = update(entries).values(state=PARKED, reason=OPERATOR)
            case _:
                change = delete(entries)
        connection.execute(change.where(where))


def _records(action: Action, changed: Sequence[tuple[EntryRow, int]]) -> list[dict[str, Any]]:
    common = {"at": time.time_ns() // 1000, "actor": actor(), "action": action.value}
    if action is Action.REDRIVE:
        # Nothing is lost by it, and there may be a million of them.
        return [
            common | {"first_entry": first, "last_entry": last, "was": PARKED}
            for first, last in runs(row.id for row, _ in changed)
        ]
    return [
        common
        | {
            "feed_id": feed_id,
            "first_entry": row.id,
            "last_entry": row.id,
            "key": row.key,
            "op": row.op,
            "captured_at": row.captured_at,
            "was": row.state,
        }
        for row, feed_id in changed
    ]


@contextmanager
def writing(url: str) -> Iterator[Connection]:
    """Change an outbox in one transaction, which holds its write lock from the beginning.

    Raises:
        see `look_up`.
    """
    engine = open_engine(url)
    with translated(database_path(url)), engine.begin() as connection:
        require_current(connection)
        yield connection


def patiently(action: Callable[[], Result]) -> Result:
    """Do what needs the lock again when the service kept it all the time.

    Raises:
        OutboxUnavailable: it did so for a quarter of a minute, or the disk is full.
    """
    return Retrying(max_attempts=_ATTEMPTS).until_done(action)
