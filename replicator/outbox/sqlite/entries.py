"""Rows of the outbox: append, settle, read back in order, park.

Every function works inside the caller's transaction. Statements of the hot path are compiled
once from the declared tables and run with plain tuples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects import sqlite

from replicator.domain.model import Entry, Failure, Op, Origin, Outcomes
from replicator.fault_points import FaultPoint, reach
from replicator.outbox.records import MOST, Count, Instant, damaged, sound, sound_keys
from replicator.outbox.schema import PARKED, PENDING, entries, feeds
from replicator.outbox.sqlite import statements

_DIALECT: Final = sqlite.dialect()

_COLUMNS: Final = (
    entries.c.id,
    entries.c.feed_id,
    entries.c.key,
    entries.c.op,
    entries.c.origin,
    entries.c.body,
    entries.c.captured_at,
)
_APPEND: Final = statements.Insertion(*_COLUMNS)
_TEXT: Final[Mapping[str, str]] = {each: each.value for each in (*Op, *Origin)}
_SETTLE: Final = str(
    delete(entries)
    .where(
        entries.c.id.between(bindparam("first"), bindparam("last")),
        entries.c.state == literal_column(f"'{PENDING}'"),  # no parameter: two go with a run
    )
    .compile(dialect=_DIALECT)
)
# Its parameters: behind which number, up to which, how many; SQLAlchemy adds an offset for SQLite.
_PAGE: Final = str(
    select(*_COLUMNS)
    .where(
        entries.c.id > bindparam("after"),
        entries.c.id <= bindparam("up_to"),
        entries.c.state == literal_column(f"'{PENDING}'"),
    )
    .order_by(entries.c.id)
    .limit(bindparam("most"))
    .compile(dialect=_DIALECT)
)
_OLDEST: Final = str(
    select(entries.c.id, entries.c.captured_at)
    .where(entries.c.state == literal_column(f"'{PENDING}'"), entries.c.id >= bindparam("floor"))
    .order_by(entries.c.id)
    .limit(bindparam("most"))
    .compile(dialect=_DIALECT)
)
_BODY: Final = _COLUMNS.index(entries.c.body)


class _Sum(NamedTuple):
    """A row of `totals`."""

    state: Literal["pending", "parked"]
    entries: Count
    size: Count
    oldest_captured_at: Instant


class Totals(NamedTuple):
    """How much lies in the outbox."""

    pending: int
    parked: int
    bytes: int  # of the bodies
    oldest_captured_at: int | None  # of the pending ones, microseconds since the epoch


class Page(NamedTuple):
    """Entries read back, and whether there may be more behind them."""

    entries: list[Entry]
    is_last: bool


def append(connection: Connection, new: Sequence[Entry]) -> None:
    """Add entries; their numbers must never have been used in this outbox."""
    if new:
        # sqlite3 looks for an adapter for each value that is not exactly a str: an Op is none.
        rows = [
            (e.number, e.feed_id, e.key, _TEXT[e.op], _TEXT[e.origin], e.body, e.captured_at)
            for e in new
        ]
        _APPEND.run(connection, rows)


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Return the runs of consecutive numbers, first and last, in growing order.

    Confirms mostly come in order, so that a thousand settled entries are one range to delete.
    """
    first = last = None
    for number in sorted(numbers):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last


def settle(connection: Connection, numbers: Iterable[int]) -> int:
    """Delete entries that RabbitMQ has confirmed; safe to repeat. Returns how many there were.

    Only the given numbers go: a run has no number in it that was not given. An entry that an
    operator has parked meanwhile stays.
    """
    ranges = list(runs(numbers))
    return statements.run_many(connection, _SETTLE, ranges).rowcount if ranges else 0


def page(
    connection: Connection, *, after: int, most: int, most_bytes: int, up_to: int = MOST
) -> Page:
    """Read pending entries back in the order of their numbers.

    Args:
        connection: a transaction or a reader.
        after: the highest number that was read before.
        most: at most so many entries.
        most_bytes: stop after the entry whose body goes over this; one entry always comes.
        up_to: the highest number that is wanted.

    Raises:
        OutboxUnusable: a row is none that was written here. What a body says is not looked at: it
            is published as it stands.
    """
    found: list[tuple[Any, ...]] = []
    size = 0
    is_cut = False
    rows = statements.run(connection, _PAGE, (after, up_to, most, 0))
    for row in rows:
        found.append(row)
        body = row[_BODY]
        size += len(body) if isinstance(body, bytes) else 0
        if is_cut := size >= most_bytes:
            break
    rows.close()
    pending = sound(found, Entry, entries.name)
    sound_keys([each.key for each in pending], entries.name)
    return Page(pending, is_last=not is_cut and len(found) < most)


def record_failures(connection: Connection, failures: Sequence[Failure]) -> None:
    """Note attempts that RabbitMQ refused, so that `outbox list` shows them."""
    if failures:
        connection.execute(
            update(entries)
            .where(entries.c.id == bindparam("number"))
            .values(attempts=entries.c.attempts + bindparam("more"), last_error=bindparam("error")),
            [
                {"number": f.number, "more": f.attempts, "error": f"{f.reason}: {f.text}"}
                for f in failures
            ],
        )


def park(connection: Connection, failures: Sequence[Failure]) -> int:
    """Set entries aside for the operator; they are not published until redriven.

    Returns how many were pending until now.
    """
    parked = 0
    if failures:
        parked = connection.execute(
            update(entries)
            .where(entries.c.id == bindparam("number"), entries.c.state == PENDING)
            .values(
                state=PARKED,
                attempts=entries.c.attempts + 1,
                reason=bindparam("why"),
                last_error=bindparam("error"),
            ),
            [{"number": f.number, "why": f.reason, "error": f.text} for f in failures],
        ).rowcount
    return parked


def take_reports(connection: Connection, reports: Sequence[Outcomes]) -> bool:
    """Do what became of published entries; safe to repeat.

    Returns whether every entry that is settled or parked was pending, which it is not when an
    operator was faster.
    """
    if not reports:
        return True
    settled = [number for report in reports for number in report.settled]
    is_as_reported = settle(connection, settled) == len(settled)
    for report in reports:
        record_failures(connection, report.failed)
        parked = park(connection, report.parked)
        is_as_reported = is_as_reported and parked == len(report.parked)
        reach(FaultPoint.SETTLING)
    return is_as_reported


def totals(connection: Connection) -> Totals:
    """Count the entries; reads the whole outbox, so it is for the start and after changes."""
    found = connection.execute(
        select(
            entries.c.state,
            func.count(),
            func.coalesce(func.sum(func.length(entries.c.body)), 0),
            func.min(entries.c.captured_at),
        ).group_by(entries.c.state)
    )
    sums = sound(map(tuple, found), _Sum, entries.name)
    counts: dict[str, Any] = {row.state: row[1:] for row in sums}
    pending, pending_bytes, oldest = counts.get(PENDING, (0, 0, None))
    parked, parked_bytes, _ = counts.get(PARKED, (0, 0, None))
    return Totals(pending, parked, pending_bytes + parked_bytes, oldest)


def require_whole(connection: Connection, last_entry: int) -> None:
    """Check what holds between the rows: every entry has its feed and a number given out.

    Raises:
        OutboxUnusable: it does not; numbers would be used twice, or nothing could be published.
    """
    has_feed = select(feeds.c.id).where(feeds.c.id == entries.c.feed_id).exists()
    orphan = connection.execute(select(entries.c.id).where(~has_feed).limit(1)).scalar()
    if orphan is not None:
        raise damaged(entries.name, f"row {orphan}: it is of a feed that is not there")
    highest = connection.execute(select(func.max(entries.c.id))).scalar()
    if highest is not None and highest > last_entry:
        raise damaged(entries.name, f"row {highest}: {last_entry} is the last number given out")


def oldest_pending(connection: Connection, floor: int) -> tuple[int, int] | None:
    """Return number and instant of the oldest pending entry from a number on; None for none.

    The floor is what was returned before: without it each call would read through all parked
    entries, which are the oldest.
    """
    found = statements.run(connection, _OLDEST, (floor, 1, 0)).fetchone()
    return (found[0], found[1]) if found is not None else None
