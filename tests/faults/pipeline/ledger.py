"""What was truly committed, and the promises as checks on it.

Looks into the database at each commit, behind the product's back. Every check says which
promise is broken.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from replicator.domain.items import FeedBatch, FeedItem, FeedOpened
from replicator.domain.reconcile import digest
from tests.faults.pipeline.simulated_broker import Message, SimulatedBroker
from tests.faults.pipeline.simulated_source import SimulatedTable, Tracked

NULL = b"null"


class Settings(NamedTuple):
    """What stays the same in a scenario."""

    policy: str = "drop"
    window: int = 3
    keep_documents: bool = False
    is_baseline: bool = False
    max_entries: int = 14
    delete_limit: int | None = None  # None: the guard is off


class Violation(AssertionError):
    """A promise was broken."""


def require(condition: object, text: str, *facts: object) -> None:
    if not condition:
        raise Violation(" ".join([text, *map(repr, facts)]))


class Body(msgspec.Struct):
    """The change envelope, with raw values."""

    old_val: msgspec.Raw
    new_val: msgspec.Raw


_decode = msgspec.json.Decoder(Body).decode


class Committed(NamedTuple):
    """An entry as it was committed."""

    number: int
    feed_id: int
    key: str
    op: str
    origin: str
    body: bytes
    state: str


class Ledger:
    """Follows one outbox through all the processes that work on it."""

    def __init__(self, tables: Sequence[SimulatedTable], settings: Settings) -> None:
        self.tables = dict(enumerate(tables, start=1))
        self.entries: dict[int, Committed] = {}
        self.pending: set[int] = set()
        self.parked: set[int] = set()
        self.first_opened: dict[int, int] = {}
        self.broker = SimulatedBroker(self.check_published)
        self._policy = settings.policy
        self._is_baseline = settings.is_baseline
        self._delete_limit = settings.delete_limit
        self._swept: Counter[int] = Counter()  # deletes of each feed's present comparison
        self._table_ids: dict[int, str] = {}
        self._accepted: dict[int, int] = {}  # by feed, until a comparison is complete
        self._states: dict[tuple[int, str], bytes] = {}
        self._newest: dict[tuple[int, str], int] = {}
        self._unchained: set[bytes] = set()
        self._discarded: set[int] = set()
        self._operated: set[int] = set()  # parked or discarded by the operator
        self._late: set[int] = set()  # redriven when the publisher had no place for them any more
        self._settled: set[int] = set()
        self._untold: set[int] = set()  # may have been sent when a process died
        self._arrived: set[int] = set()
        self._heard = 0

    def process_died(self) -> None:
        """Take note of what may have been sent without the next process knowing."""
        self._untold |= self.pending | self._operated

    # At each commit.

    def commit(self, cursor: Any, items: Sequence[FeedItem]) -> None:
        """Take note of a transaction that is committed now, with the items that it is for."""
        self._note_items(items)
        rows = cursor.execute("SELECT id, state FROM entries").fetchall()
        states = {number: state for number, state in rows if number not in self._discarded}
        last = max(self.entries, default=0)
        new = cursor.execute(
            "SELECT id, feed_id, key, op, origin, body, state FROM entries WHERE id > ? "
            "ORDER BY id",
            (last,),
        ).fetchall()
        for row in new:
            self._append(Committed(*row))
        self._check_guard(cursor)
        unknown = states.keys() - self.entries.keys()
        require(not unknown, "G1: an entry's number was used twice", unknown)
        gone = (self.pending | self.parked) - states.keys()
        self._require_delivered(gone)
        self._settled |= gone
        self.pending = {number for number, state in states.items() if state == "pending"}
        self.parked = {number for number, state in states.items() if state == "parked"}

    def _note_items(self, items: Sequence[FeedItem]) -> None:
        for item in items:
            if isinstance(item, FeedOpened):
                self.first_opened.setdefault(item.feed_id, item.at)
                self._swept[item.feed_id] = 0
                if self._table_ids.get(item.feed_id) != item.table_id:
                    self._accepted.pop(item.feed_id, None)
                self._table_ids[item.feed_id] = item.table_id
            elif isinstance(item, FeedBatch):
                for change in item.changes:
                    if isinstance(change, Tracked):
                        self.tables[item.feed_id].history[change.write].is_seen = True
                        if change.may_break_chain:
                            self._unchained.add(b"%b>%b" % (change.old_val, change.new_val))

    def _check_guard(self, cursor: Any) -> None:
        rows = cursor.execute(
            "SELECT f.id, f.state, count(g.id) FROM feeds AS f LEFT JOIN gaps AS g "
            "ON g.feed_id = f.id AND g.closed_at IS NULL GROUP BY f.id"
        )
        for feed_id, state, open_gaps in rows.fetchall():
            allowed = max(self._delete_limit or 0, self._accepted.get(feed_id, 0))
            swept = self._swept[feed_id]
            is_allowed = self._delete_limit is None or swept <= allowed
            require(is_allowed, "guard: too many deletes", feed_id, swept, allowed)
            require(state != "guarded" or open_gaps, "guard: the gap is closed", feed_id)
            if state == "ready":  # the comparison is complete
                self._accepted.pop(feed_id, None)
                self._swept[feed_id] = 0

    def _require_delivered(self, numbers: set[int]) -> None:
        self._hear()
        dropped = self.broker.returned if self._policy == "drop" else set()
        lost = numbers - self._arrived - dropped
        require(not lost, "G1: entries were deleted that were never delivered", lost)

    def _append(self, entry: Committed) -> None:
        document = entry.feed_id, entry.key
        before = self._states.get(document)
        body = _decode(entry.body)
        old, new = bytes(body.old_val), bytes(body.new_val)
        # A baseline records documents that no entry tells of.
        if before not in (None, NULL) or not self._is_baseline:
            if entry.origin == "feed":
                if b"%b>%b" % (old, new) not in self._unchained:
                    require(old == (before or NULL), "G2: a chain is broken", before, entry)
            else:
                self._check_resync(entry, before or NULL, old, new)
        self._swept[entry.feed_id] += entry.origin == "resync" and entry.op == "delete"
        self.entries[entry.number] = entry
        self._states[document] = new
        self._newest[document] = entry.number

    def _check_resync(self, entry: Committed, before: bytes, old: bytes, new: bytes) -> None:
        require(new != before, "G2: published although nothing changed", entry)
        wanted = "create" if before == NULL else "delete" if new == NULL else "update"
        require(entry.op == wanted, f"G2: this is no {entry.op}", before, entry)
        is_key = new == NULL and len(json.loads(old)) == 1
        require(old in (before, NULL) or is_key, "G2: a wrong old value", before, entry)

    # At each message.

    def check_published(self, message: Message) -> None:
        entry = self.entries.get(message.number)
        if entry is None:
            raise Violation(f"G1: published before its commit: {message}")
        require(message.number not in self._settled, "G3: published after it was settled", message)
        table = self.tables[entry.feed_id].name
        expected = (entry.number, entry.op, f"{table}.{entry.op}", entry.origin, entry.body)
        said = (message.number, message.op, message.routing_key, message.origin, message.body)
        require(said == expected, "the message is not its entry", message, entry)
        require(message.is_mandatory and message.is_persistent, "G1: may be lost", message)

    def _hear(self) -> None:
        self._arrived.update(message.number for message in self.broker.log[self._heard :])
        self._heard = len(self.broker.log)

    # What an operator did, after the command's commit.

    def operator_parks(self, numbers: Sequence[int]) -> None:
        self._operated.update(numbers)
        self.pending.difference_update(numbers)
        self.parked.update(numbers)

    def operator_redrives(self, numbers: Sequence[int], late: Sequence[int]) -> None:
        """Note it; ``late`` ones may come after newer entries of their documents."""
        self._late.update(late)
        self.parked.difference_update(numbers)
        self.pending.update(numbers)

    def operator_discards(self, numbers: Sequence[int]) -> None:
        self._operated.update(numbers)
        self._discarded.update(numbers)
        self.pending.difference_update(numbers)
        self.parked.difference_update(numbers)

    def operator_accepts(self, feed_id: int, deletes: int) -> None:
        self._accepted[feed_id] = deletes

    # In the end.

    def check_all(self, cursor: Any, *, has_gone_back: bool) -> None:
        self._check_order()
        given_up = self.entries.keys() - self._arrived
        dropped = self.broker.returned if self._policy != "hold" else set()
        allowed = self._discarded | self.parked | dropped
        require(given_up <= allowed, "G1: never delivered", given_up - allowed)
        wrongly = self.parked - self._operated - self.broker.too_large - dropped
        require(not wrongly, "G1: parked for nothing", wrongly)
        for feed_id, table in self.tables.items():
            self._check_copy(feed_id, table, given_up | self._set_aside)
            self._check_index(cursor, feed_id, table)
            self._check_gaps(cursor, feed_id, table, has_gone_back=has_gone_back)

    @property
    def _set_aside(self) -> set[int]:
        """What a process that died may have sent, and an operator parked or discarded.

        If it had been sent, it is not sent again, while older entries of its document are.
        """
        return self._untold & self._operated & (self.parked | self._discarded)

    def _check_order(self) -> None:
        self._hear()
        arrived: dict[tuple[int, str], list[int]] = defaultdict(list)
        for message in self.broker.log:
            entry = self.entries[message.number]
            arrived[entry.feed_id, entry.key].append(message.number)
        overtaken = (
            self._late
            | self.broker.too_large
            | (self.broker.returned if self._policy != "hold" else set())
        )
        for document, numbers in arrived.items():
            # One that was given up by policy, and not yet on disk as such when the process died,
            # is sent once more. The newer ones that had overtaken it are then sent again as well.
            first = [each for each in dict.fromkeys(numbers) if each not in overtaken]
            require(first == sorted(first), "G3: first deliveries out of order", document, numbers)
            newest = max(set(numbers) - self._set_aside, default=numbers[-1])
            is_newest = numbers[-1] >= newest or numbers[-1] in self._late
            require(is_newest, "G3: the last is not the newest", document, numbers)

    def _check_copy(self, feed_id: int, table: SimulatedTable, given_up: set[int]) -> None:
        copy: dict[str, bytes] = {}
        late: set[str] = set()  # documents of which an old state was redriven
        for message in self.broker.log:
            entry = self.entries[message.number]
            if entry.feed_id == feed_id:
                copy[entry.key] = bytes(_decode(message.body).new_val)
                (late.add if message.number in self._late else late.discard)(entry.key)
        for key in {*copy, *table.documents, *(k for f, k in self._newest if f == feed_id)}:
            newest = self._newest.get((feed_id, key))
            # A baseline may have recorded what no message ever told of.
            if newest in given_up or key in late or (self._is_baseline and key not in copy):
                continue
            wanted = table.documents.get(key, NULL)
            require(copy.get(key, NULL) == wanted, "G2: the copy is not the table", feed_id, key)

    def _check_index(self, cursor: Any, feed_id: int, table: SimulatedTable) -> None:
        rows = cursor.execute("SELECT key, digest FROM documents WHERE feed_id = ?", (feed_id,))
        wanted = {key: digest(raw) for key, raw in table.documents.items()}
        require(dict(rows.fetchall()) == wanted, "G2: the index is not the table", feed_id)

    def _check_gaps(
        self, cursor: Any, feed_id: int, table: SimulatedTable, *, has_gone_back: bool
    ) -> None:
        gaps = cursor.execute(
            "SELECT opened_at, closed_at, created, updated, deleted FROM gaps WHERE feed_id = ?",
            (feed_id,),
        ).fetchall()
        require(all(gap[1] is not None for gap in gaps), "G4: a gap stays open", gaps)
        counts = Counter(
            entry.op
            for entry in self.entries.values()
            if entry.feed_id == feed_id and entry.origin == "resync"
        )
        for place, op in enumerate(("create", "update", "delete"), start=2):
            counted = sum(gap[place] for gap in gaps)
            require(counted == counts[op], f"G4: gaps do not count every {op}", gaps, counts)
        if has_gone_back:
            return
        (first_ready,) = cursor.execute(
            "SELECT first_ready_at FROM feeds WHERE id = ?", (feed_id,)
        ).fetchone()
        latest = {write.key: write for write in table.history}
        for write in table.history:
            if write.is_seen or write is latest[write.key] or write.at < self.first_opened[feed_id]:
                continue
            if write.is_discarded and write.at < first_ready:
                continue
            is_known = any(start <= write.at <= end for start, end, *_ in gaps)
            require(is_known, "G4: missed, and in no gap", write, gaps)
