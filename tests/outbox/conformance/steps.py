"""Steps, entries and feeds, made short."""

from collections.abc import Mapping, Sequence
from typing import Any

from replicator.domain.feed import Feed
from replicator.domain.index import IndexChange
from replicator.domain.model import Entry, Failure, Known, Op, Origin, Outcomes, TableName
from replicator.domain.reconcile import TableRules
from replicator.domain.seen_rows import SeenRows
from replicator.outbox.port import Outbox, Registered, Search, Step

NAME, OTHER = TableName("db", "t"), TableName("db", "other")
DIGEST = b"d" * 16


def entry(number: int, body: bytes = b"{}", feed_id: int = 1) -> Entry:
    return Entry(number, feed_id, f'"{number}"', Op.UPDATE, Origin.RESYNC, body, number * 10)


def appended(*entries: Entry, **others: Any) -> Step:
    return Step(entries, last_entry=entries[-1].number, **others)


def append(outbox: Outbox, *numbers: int) -> None:
    outbox.commit(appended(*map(entry, numbers)))


def report(
    settled: Sequence[int] = (),
    *,
    failed: Sequence[Failure] = (),
    parked: Sequence[Failure] = (),
    last_entry: int = 100,
) -> Step:
    """Return a step that only has outcomes."""
    return Step(last_entry=last_entry, outcomes=[Outcomes(settled, 0, failed, parked)])


def parked(*numbers: int) -> Step:
    return report(parked=[Failure(number, "too_large", "16 MiB") for number in numbers])


def inserted(rows: Mapping[str, Known], feed_id: int = 1) -> Step:
    return Step(index_changes={feed_id: IndexChange(inserted=rows)})


def feed_of(registered: Registered) -> Feed:
    """Return a feed as it was found."""
    row = registered.row
    return Feed(
        id=row.id,
        name=row.name,
        rules=TableRules("id"),
        is_baseline=False,
        projection=row.projection,
        gap=registered.gap,
        **row.kept(),
    )


def search(
    start: str = "",
    *,
    feed_id: int = 1,
    seen: Sequence[int] = (),
    max_rows: int = 10,
    max_bytes: int = 1_000_000,
    with_values: bool = True,
) -> Search:
    rows = SeenRows()
    for row_id in seen:
        rows.add(row_id)
    return Search(feed_id, rows, start, max_rows, max_bytes, with_values)
