"""Promise G2 as a model: whatever happens, what was published adds up to the table.

A table is changed by random writes while a feed follows it, breaks, and comes back with a
snapshot that is read in pieces between which the writes go on. A consumer applies each published
draft in order to a copy of its own.
"""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from replicator.domain.feed_element import Change, key_reader
from replicator.domain.index import IndexDraft, RowIds
from replicator.domain.model import Known, Op, Origin
from replicator.domain.reconcile import Draft, SnapshotRules, TableRules, deletes, reconcile
from replicator.domain.seen_rows import SeenRows
from tests.support.feed_elements import add, change, initial, remove

KEYS = st.integers(0, 7)
VALUES = st.integers(0, 3)
READ_KEY = key_reader("id")


class TableAndCopy(RuleBasedStateMachine):
    """A table, its feed, the index, and the copy that a consumer makes."""

    @initialize(kept=st.booleans())
    def begin(self, kept: bool) -> None:  # noqa: FBT001 -- hypothesis names arguments
        self.table: dict[int, int] = {}
        self.index: dict[str, Known] = {}
        self.copy: dict[int, int] = {}
        self.row_ids = RowIds(1)
        self.rules = TableRules("id", keep_documents=kept)
        self.unread: list[int] | None = None  # keys that the snapshot has not read yet
        self.seen = SeenRows()
        self.is_open = self.is_sweeping = False
        self.was_complete = False
        self.swept_to = ""
        self.changed: set[int] = set()  # touched since the copy was last known to be equal
        self.batch: list[Change] = []

    # Writes.

    @rule(key=KEYS, value=VALUES)
    def write(self, key: int, value: int) -> None:
        old = self.table.get(key)
        if old == value:
            return
        self.table[key] = value
        self.changed.add(key)
        new = {"id": key, "v": value}
        self._emit(key, add(new) if old is None else change({"id": key, "v": old}, new))

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        if key in self.table:
            old = self.table.pop(key)
            self.changed.add(key)
            self._emit(key, remove({"id": key, "v": old}))

    def _emit(self, key: int, element: Change) -> None:
        # A change of a range that the snapshot has not read yet is in its initial values.
        if self.is_open and key not in (self.unread or ()):
            self.batch.append(element)

    # The feed.

    @precondition(lambda self: not self.is_open)
    @rule()
    def open(self) -> None:
        self.is_open = True
        # Ranges are read key by key; a key that does not exist yet belongs to a range as well.
        self.unread = list(range(8))
        self.seen = SeenRows()

    @precondition(lambda self: self.unread)
    @rule(many=st.integers(1, 5))
    def read_initial_values(self, many: int) -> None:
        assert self.unread is not None
        ranges, self.unread = self.unread[:many], self.unread[many:]
        self.batch += [
            initial({"id": key, "v": self.table[key]}) for key in ranges if key in self.table
        ]

    @precondition(lambda self: self.unread == [] and not self.is_sweeping)
    @rule()
    def become_ready(self) -> None:
        self._capture()
        self.is_sweeping = True
        self.swept_to = ""

    @precondition(lambda self: self.is_sweeping)
    @rule(many=st.integers(1, 3))
    def sweep_a_page(self, many: int) -> None:
        rows = sorted(item for item in self.index.items() if item[0] > self.swept_to)[:many]
        unseen = {key: row for key, row in rows if row.row_id not in self.seen}
        draft = IndexDraft(self.row_ids)
        draft.know((), unseen)
        for key in unseen:
            draft.remove(key)
        self._write(draft)
        self._publish(deletes(unseen.items(), rules=self.rules))
        if len(rows) == many:
            self.swept_to = rows[-1][0]
            return
        self.unread, self.is_sweeping = None, False
        self.was_complete = True
        self._capture()
        assert self.copy == self.table
        self.changed.clear()

    @rule(many=st.integers(1, 4), reads_along=st.booleans())
    def capture(self, many: int, reads_along: bool) -> None:  # noqa: FBT001 -- as above
        self._capture(many, reads_along=reads_along)

    def _capture(self, many: int = 8, *, reads_along: bool = False) -> None:
        """Do one step, in which the elements come in batches of this length."""
        elements, self.batch = self.batch, []
        draft = IndexDraft(self.row_ids)
        for start in range(0, len(elements), many):
            self._decide(elements[start : start + many], draft, reads_along=reads_along)
        self._write(draft)

    def _decide(self, batch: list[Change], draft: IndexDraft, *, reads_along: bool) -> None:
        keys = [READ_KEY(c.old_val if c.type == "remove" else c.new_val) for c in batch]
        # What is known stays known until the step is written.
        unknown = draft.unknown(keys)
        assert len(unknown) == len(set(unknown))
        found = {key: row for key, row in self.index.items() if key in unknown or reads_along}
        draft.know(unknown, found)
        is_comparing = self.unread is not None
        origin = Origin.RESYNC if self.was_complete else Origin.SNAPSHOT
        plan = reconcile(
            batch,
            keys,
            draft,
            rules=self.rules,
            snapshot=SnapshotRules(origin) if is_comparing else None,
        )
        for row_id in plan.seen if is_comparing else ():
            self.seen.add(row_id)
        self._publish(plan.drafts)

    def _write(self, draft: IndexDraft) -> None:
        change = draft.change()
        by_id = {row.row_id: key for key, row in self.index.items()}
        for row_id in change.deleted:
            del self.index[by_id[row_id]]
        for key, row in change.updated.items():
            assert by_id[row.row_id] == key
            self.index[key] = row
        assert not set(change.inserted) & set(self.index), "a key may have one row only"
        self.index.update(change.inserted)
        ids = [row.row_id for row in self.index.values()]
        assert len(ids) == len(set(ids)), "an id may have one row only"
        assert all(row_id < self.row_ids.next_id for row_id in ids)
        assert not change.forgets_deleted

    @precondition(lambda self: self.is_open)
    @rule()
    def break_off(self) -> None:
        """What was read and not captured is lost, and so is every write until it opens again."""
        self.batch.clear()
        self.is_open = self.is_sweeping = False
        self.unread = None

    # The consumer.

    def _publish(self, drafts: list[Draft]) -> None:
        for draft in drafts:
            op, origin = draft.op, draft.origin
            message = json.loads(draft.body)
            document = int(draft.key)
            assert origin is Origin.FEED or document in self.changed, "published for no reason"
            if origin is Origin.RESYNC and self.rules.keep_documents:
                assert message["old_val"] is None or message["old_val"]["id"] == document
                assert (message["old_val"] or {}).get("v") == self.copy.get(document)
            if op is Op.DELETE:
                assert message["new_val"] is None
                assert message["old_val"]["id"] == document
                self.copy.pop(document, None)
            else:
                assert message["new_val"]["id"] == document
                # A document that was deleted and created again in a gap is a create of the feed
                # that a consumer has already; only then.
                is_in_gap = origin is Origin.FEED and self.unread is not None
                assert (document in self.copy) is (op is Op.UPDATE) or is_in_gap
                self.copy[document] = message["new_val"]["v"]

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        self.break_off()
        self.open()
        self.read_initial_values(8)
        self.become_ready()
        while self.is_sweeping:
            self.sweep_a_page(3)
        assert self.copy == self.table
        self._open_again_over_an_unchanged_table()

    def _open_again_over_an_unchanged_table(self) -> None:
        self.break_off()
        self.open()
        before = dict(self.index)
        self.read_initial_values(8)  # `changed` is empty: a draft would be an error
        self.become_ready()
        while self.is_sweeping:
            self.sweep_a_page(3)
        assert self.index == before


TestTableAndCopy = TableAndCopy.TestCase
TestTableAndCopy.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
