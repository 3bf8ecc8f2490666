"""The store's outbox on SQLite: one connection, used by one thread at a time.

Invariant: whatever changes more than one row is within `_transaction`, and only `commit` changes
entries, index, feeds and gaps together.
"""

import sqlite3
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from replicator.domain.feed import Feed, Gap
from replicator.domain.feed_state import FeedState
from replicator.domain.index import DELETED, IndexChange
from replicator.domain.model import Entry, Known, Op, Origin, Outcomes, TableName
from replicator.domain.properties import outbox_id
from replicator.domain.ranges import runs
from replicator.fault_points import FaultPoint, reach
from replicator.outbox import feeds as feed_rows
from replicator.outbox import orders, schema
from replicator.outbox.orders import Order
from replicator.outbox.port import (
    Committed,
    EntryPage,
    Prepared,
    Registered,
    Search,
    Step,
    Totals,
    UnseenCount,
    UnseenPage,
)
from replicator.outbox.records import (
    MAX_COUNT,
    Count,
    Instant,
    OutboxId,
    damaged,
    sound,
    sound_keys,
)
from replicator.outbox.sqlite import index, room
from replicator.outbox.sqlite import statements as sql
from replicator.outbox.sqlite.failures import translated
from replicator.outbox.sqlite.lock import lock_file
from replicator.outbox.sqlite.place import SameFile

_TIDY_PAGES: Final = 512
_BODY: Final = 5  # its place among the columns of an entry
_ENTRY_COLUMNS: Final = 7
_DOCUMENT_COLUMNS: Final = 5
# sqlite3 looks for an adapter for each value that is not exactly a str; an Op is not.
_TEXT: Final = {each: each.value for each in (*Op, *Origin)}


class _Identity(NamedTuple):
    """What message ids consist of."""

    outbox_id: OutboxId
    last_entry: Count


class _Sum(NamedTuple):
    """The entries of one state."""

    state: Literal["pending", "parked"]
    entries: Count
    size: Count
    oldest_captured_at: Instant


class _FeedName(NamedTuple):
    """A feed and its table."""

    id: int
    database: str
    table: str


class SqliteOutbox:
    """Implements `replicator.outbox.port.Outbox`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Take over a connection that `connection.open_writer` has made."""
        self._path = path
        self._connection = connection
        self._place = SameFile(path, lock_file(path))
        self._may_have_free_pages = True
        # The oldest pending entry, and a number below which no entry is pending; 0: unknown.
        self._oldest: tuple[int, int] | None = None
        self._floor = 0
        self._version = 0

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed."""
        with translated(self._path):
            if self._connection.in_transaction:
                # Order matters: a transaction that could not be rolled back must end before
                # anything is read. What it wrote would look committed, and never be published.
                self._connection.execute(sql.ROLLBACK)
            yield self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit everything that the block does, or nothing."""
        with self._reading() as connection:
            connection.execute(sql.BEGIN)
            try:
                yield connection
                connection.execute(sql.COMMIT)
            except BaseException:
                # SQLite rolls back by itself after some errors.
                if connection.in_transaction:
                    connection.execute(sql.ROLLBACK)
                raise

    # At the start.

    def prepare(self, now: int) -> Prepared:
        """Do `Outbox.prepare`."""
        with self._transaction() as connection:
            row = connection.execute(sql.IDENTITY).fetchone()
            if row is None:
                made = uuid.uuid4()
                row = (outbox_id(made.bytes), 0)
                connection.execute(sql.MAKE_IDENTITY, (row[0], str(made), now))
            (identity,) = sound([row], _Identity, schema.meta.name)
            self._require_whole(identity.last_entry)
            (last_order,) = connection.execute(sql.LAST_ORDER).fetchone()
            return Prepared(
                *identity,
                next_row_id=self._next_row_id(),
                last_order=last_order,
                totals=self._totals(),
            )

    def _next_row_id(self) -> int:
        (highest,) = self._connection.execute(sql.HIGHEST_ROW_ID).fetchone()
        if not isinstance(highest, int | None) or (highest or 0) > MAX_COUNT:
            raise damaged(schema.documents.name, f"row {highest!r}: it is too high")
        return max(0, highest or 0) + 1

    def _require_whole(self, last_entry: int) -> None:
        """Check across rows that every entry has its feed, and a number that was given out."""
        orphan = self._connection.execute(sql.ENTRY_WITHOUT_FEED).fetchone()
        if orphan is not None:
            raise damaged(schema.entries.name, f"row {orphan[0]}: its feed is missing")
        (highest,) = self._connection.execute(sql.HIGHEST_ENTRY).fetchone()
        if highest is not None and highest > last_entry:
            what = f"row {highest}: {last_entry} is the last number given out"
            raise damaged(schema.entries.name, what)

    def register(self, name: TableName, projection: str) -> Registered:
        """Do `Outbox.register`."""
        with self._transaction() as connection:
            row = self._feed_row(name)
            is_new = row is None
            if row is None:
                connection.execute(sql.MAKE_FEED, (*name, projection))
                row = self._feed_row(name)
            if row is None:
                raise RuntimeError("a feed that was just made is missing")
            if row.state is not FeedState.LOST:
                # Not when it says so already: a start on a full disk need not write.
                connection.execute(sql.LOSE_FEED, (row.id,))
            if row.projection != projection:
                connection.execute(sql.FORGET_DOCUMENTS, (row.id,))
            lost = msgspec.structs.replace(row, state=FeedState.LOST)
            return Registered(lost, self._open_gap(row.id), is_new)

    def _feed_row(self, name: TableName) -> feed_rows.StoredFeed | None:
        cursor = self._connection.execute(sql.FEED, name)
        row = cursor.fetchone()
        if row is None:
            return None
        names = [column[0] for column in cursor.description]
        return feed_rows.read_row(dict(zip(names, row, strict=True)))

    def _open_gap(self, feed_id: int) -> Gap | None:
        rows = self._connection.execute(sql.OPEN_GAP, (feed_id,)).fetchall()
        if len(rows) > 1:
            raise damaged(schema.gaps.name, f"the feed {feed_id} has two open gaps")
        return feed_rows.read_gap(rows[0]) if rows else None

    def tables(self) -> dict[int, TableName]:
        """Do `Outbox.tables`."""
        with self._reading() as connection:
            return _names(connection.execute(sql.FEED_NAMES))

    def not_dropped(self, databases: Collection[str]) -> list[TableName]:
        """Do `Outbox.not_dropped`."""
        with self._reading() as connection:
            wanted = index.as_json(list(databases))
            return list(_names(connection.execute(sql.FEED_NAMES_NOT_DROPPED, (wanted,))).values())

    # For the decision of a step.

    def look_up(
        self, feed_id: int, keys: Sequence[str], *, with_documents: bool, is_in_order: bool
    ) -> dict[str, Known]:
        """Do `Outbox.look_up`."""
        with self._reading() as connection:
            return index.look_up(
                connection,
                feed_id,
                keys,
                with_documents=with_documents,
                is_in_order=is_in_order,
            )

    def unseen(self, search: Search) -> UnseenPage:
        """Do `Outbox.unseen`."""
        with self._reading() as connection:
            return index.unseen(connection, search)

    def count_unseen(self, search: Search, first_new_row: int) -> UnseenCount:
        """Do `Outbox.count_unseen`."""
        with self._reading() as connection:
            return index.count_unseen(connection, search, first_new_row)

    # The commit.

    def commit(self, step: Step) -> Committed:
        """Do `Outbox.commit`."""
        with self._transaction() as connection:
            if step.entries:
                self._append(step.entries)
                connection.execute(sql.SAVE_LAST_ENTRY, (step.last_entry,))
            for feed_id, change in step.index_changes.items():
                self._change_index(feed_id, change)
            for before, after in step.feeds:
                self._save_feed(before, after)
            is_as_reported = self._take_outcomes(step.outcomes)
            oldest = self._oldest_after(step)
            reach(FaultPoint.BEFORE_COMMIT)
        # Order matters: what is remembered would be wrong if the transaction failed.
        self._oldest = oldest
        self._floor = oldest[0] if oldest is not None else step.last_entry
        self._may_have_free_pages = self._may_have_free_pages or bool(step.outcomes)
        return Committed(oldest, is_as_reported)

    def _append(self, entries: Sequence[Entry]) -> None:
        rows = [
            (e.number, e.feed_id, e.key, _TEXT[e.op], _TEXT[e.origin], e.body, e.captured_at)
            for e in entries
        ]
        self._insert(sql.APPEND_ENTRIES, _ENTRY_COLUMNS, rows)

    def _insert(
        self, head: str, columns: int, rows: Sequence[tuple[object, ...]], end: str = ""
    ) -> None:
        start = 0
        for count in sql.ROW_COUNTS:
            while len(rows) - start >= count:
                values = tuple(chain.from_iterable(rows[start : start + count]))
                self._connection.execute(sql.insert(head, columns, count, end), values)
                start += count

    def _change_index(self, feed_id: int, change: IndexChange) -> None:
        # Order matters: a document that was deleted and created again has its key in both lists.
        if change.deleted:
            self._connection.execute(sql.DELETE_DOCUMENTS, (index.as_json(change.deleted),))
        for rows, end in ((change.inserted, ""), (change.updated, sql.UPDATE_DOCUMENTS_END)):
            values = [
                (row.row_id, feed_id, key, row.digest, row.document) for key, row in rows.items()
            ]
            self._insert(sql.INSERT_DOCUMENTS, _DOCUMENT_COLUMNS, values, end)
        # Order matters: the last page of a sweep marks rows as deleted, which are removed here.
        if change.forgets_deleted:
            self._connection.execute(sql.FORGET_DELETED, (feed_id, DELETED))

    def _save_feed(self, before: Feed, after: Feed) -> None:
        if changed := feed_rows.difference(before, after):
            statement = sql.save_feed(tuple(changed))
            self._connection.execute(statement, (*changed.values(), after.id))
        if after.gap is not None and after.gap != before.gap:
            self._save_gap(after.id, before.gap, after.gap)

    def _save_gap(self, feed_id: int, before: Gap | None, gap: Gap) -> None:
        repairs = (gap.created, gap.updated, gap.deleted, gap.skipped)
        if before is not None and before.closed_at is None:
            values: tuple[object, ...] = (*repairs, gap.closed_at, feed_id)
            self._connection.execute(sql.SAVE_GAP, values)
        else:
            values = (feed_id, gap.cause.value, gap.opened_at, *repairs, gap.closed_at)
            self._connection.execute(sql.RECORD_GAP, values)

    def _take_outcomes(self, reports: Sequence[Outcomes]) -> bool:
        """Write what became of published entries; returns whether all of them were pending."""
        if not reports:
            return True
        connection = self._connection
        settled = [number for report in reports for number in report.settled]
        is_as_reported = True
        if settled:
            ranges = list(runs(settled))
            deleted = connection.executemany(sql.SETTLE, ranges).rowcount
            is_as_reported = deleted == len(settled)
        for report in reports:
            for each in report.failed:
                values = (each.attempts, f"{each.reason}: {each.text}", each.number)
                connection.execute(sql.RECORD_FAILURE, values)
            for each in report.parked:
                parked = connection.execute(sql.PARK, (each.reason, each.text, each.number))
                is_as_reported = is_as_reported and parked.rowcount == 1
            if report.settled:
                reach(FaultPoint.SETTLING)
        return is_as_reported

    def _oldest_after(self, step: Step) -> tuple[int, int] | None:
        """Return number and instant of the oldest pending entry; reads only if it may be new."""
        if step.outcomes or not self._floor:
            found = self._connection.execute(sql.OLDEST, (self._floor,)).fetchone()
            return (found[0], found[1]) if found is not None else None
        if self._oldest is None and step.entries:
            return step.entries[0].number, step.entries[0].captured_at
        return self._oldest

    # After the commit.

    def page(self, after: int, *, max_entries: int, max_bytes: int) -> EntryPage:
        """Do `Outbox.page`."""
        found: list[tuple[Any, ...]] = []
        size = 0
        is_cut = False
        with self._reading() as connection:
            rows = connection.execute(sql.PAGE, (after, max_entries))
            for row in rows:
                found.append(row)
                size += len(row[_BODY]) if isinstance(row[_BODY], bytes) else 0
                if is_cut := size >= max_bytes:
                    break
            rows.close()
        # Bodies are not checked: they are published as they stand.
        pending = sound(found, Entry, schema.entries.name)
        sound_keys([each.key for each in pending], schema.entries.name)
        return EntryPage(pending, is_last=not is_cut and len(found) < max_entries)

    def version(self) -> int:
        """Do `Outbox.version`."""
        with self._reading() as connection:
            (version,) = connection.execute(sql.DATA_VERSION).fetchone()
        if version != self._version:
            self._version = version
            self._floor = 0  # an entry may have been redriven
        return int(version)

    def orders_after(self, number: int) -> list[Order]:
        """Do `Outbox.orders_after`."""
        with self._reading() as connection:
            return orders.checked(connection.execute(sql.ORDERS_AFTER, (number,)))

    def totals(self) -> Totals:
        """Do `Outbox.totals`."""
        with self._reading():
            return self._totals()

    def _totals(self) -> Totals:
        rows = self._connection.execute(sql.TOTALS).fetchall()
        by_state = {each.state: each for each in sound(rows, _Sum, schema.entries.name)}
        pending, parked = by_state.get("pending"), by_state.get("parked")
        return Totals(
            pending=pending.entries if pending else 0,
            parked=parked.entries if parked else 0,
            bytes=sum(each.size for each in by_state.values()),
            oldest_captured_at=pending.oldest_captured_at if pending else None,
        )

    def is_room_low(self, *, was_low: bool) -> bool:
        """Do `Outbox.is_room_low`, for the volume."""
        try:
            return room.is_disk_low(self._path.parent, was_low=was_low)
        except OSError:
            # A volume that does not say is reported by what next reads or writes the outbox.
            return was_low

    def tidy(self) -> None:
        """Do `Outbox.tidy`: give a few free pages back to the file system."""
        if not self._may_have_free_pages:
            return
        with self._transaction() as connection:
            (free,) = connection.execute(sql.FREE_PAGES).fetchone()
            # One page at a time: the pragma frees a page with each of its rows. Its rows have no
            # columns, and of a statement without columns sqlite3 reads only one row.
            for _ in range(min(free, _TIDY_PAGES)):
                connection.execute(sql.FREE_ONE_PAGE)
        self._may_have_free_pages = free > _TIDY_PAGES

    def require_in_place(self) -> None:
        """Do `Outbox.require_in_place`."""
        self._place.require()

    def close(self) -> None:
        """Do `Outbox.close`."""
        self._connection.close()


def _names(rows: Any) -> dict[int, TableName]:
    found = sound(list(rows), _FeedName, schema.feeds.name)
    return {row.id: TableName(row.database, row.table) for row in found}
