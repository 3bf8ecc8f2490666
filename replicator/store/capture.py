"""Decides what the items of one step mean: the way from a feed to the outbox.

Nothing is written here. What the store knew after its last commit is immutable: a step is decided
on copies, which are kept only once it is committed; only the marks of what a snapshot has seen are
shared, and marking twice does no harm. So a step whose commit failed (disk full,
locked) is decided again from the same items, with the same result.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from replicator.domain.feed import MIXED, Feed, Gap, Snapshot
from replicator.domain.feed_element import key_reader
from replicator.domain.feed_state import FeedEvent, FeedState, next_state
from replicator.domain.index import IndexDraft, RowIds
from replicator.domain.items import (
    FeedBatch,
    FeedClosed,
    FeedOpened,
    Item,
    SnapshotRead,
    TableDropped,
    TableFound,
    TableSettings,
)
from replicator.domain.model import Cause, Entry, Op, Origin, Outcomes, TableName
from replicator.domain.reconcile import Draft, SnapshotRules, reconcile
from replicator.domain.seen_rows import SeenRows
from replicator.fault_points import FaultPoint
from replicator.outbox.port import Outbox, Step

_REPAIRS: Final = {Op.CREATE: "created", Op.UPDATE: "updated", Op.DELETE: "deleted"}
# Progress alone is not worth a commit of its own more often than this.
_PROGRESS_EVERY: Final = 1_000_000  # microseconds
# How long a change may be on its way when the server says that it has no more. A writer's answer
# may come before the change has reached the feed, from each shard at a pace of its own. And a
# server that is cut off from a primary notices after 10 seconds, its default; 14.5 were measured.
_ON_ITS_WAY: Final = 1_000_000  # microseconds
_ON_ITS_WAY_IN_A_SPLIT: Final = 15_000_000


class Memory(NamedTuple):
    """What the store knows after a commit; never changed."""

    feeds: Mapping[int, Feed]
    kept: Mapping[int, Feed]  # as the outbox has them: progress and pauses are saved now and then
    last_entry: int
    next_row_id: int


class Capture:
    """Decides one step: call `handle`, or let `store.sweep` decide, then `step`; then use the rest.

    `draft`, `add`, `save`, `keep`, `complete` and `end` are for the sweep.
    """

    def __init__(
        self, outbox: Outbox, memory: Memory, register: Callable[[TableSettings], Feed]
    ) -> None:
        """Start with what the store knew; ``register`` finds or makes the feed of a table."""
        self._outbox = outbox
        self._register = register
        self._feeds = dict(memory.feeds)
        self._kept = dict(memory.kept)
        self._ended: dict[int, Feed] = {}
        self.last_entry = memory.last_entry  # the highest number ever given to an entry
        self._row_ids = RowIds(memory.next_row_id)
        self._index: dict[int, IndexDraft] = {}
        self._to_save: dict[int, None] = {}  # a set that keeps the order
        self.entries: list[Entry] = []
        self.tally: Counter[tuple[str, ...]] = Counter()
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.warnings: list[tuple[str, dict[str, object]]] = []
        self.fault_points: list[FaultPoint] = []  # to be reached after the commit
        self.found: list[Feed] = []  # of tables that were found
        self.dropped: list[Feed] = []  # of tables whose deletes are all captured

    def step(self, outcomes: Sequence[Outcomes]) -> Step:
        """Return what was decided, to be committed with these outcomes."""
        after = self._feeds | self._ended
        return Step(
            self.entries,
            self.last_entry,
            {feed_id: draft.change() for feed_id, draft in self._index.items()},
            [(self._kept[feed_id], after[feed_id]) for feed_id in self._to_save],
            outcomes,
        )

    @property
    def memory(self) -> Memory:
        """What the store will know once the step is committed."""
        kept = self._kept | {each: self._feeds[each] for each in self._to_save.keys() - self._ended}
        for feed_id in self._ended:
            kept.pop(feed_id, None)
        return Memory(self._feeds, kept, self.last_entry, self._row_ids.next_id)

    def handle(self, item: Item) -> None:
        """Decide what one item means."""
        match item:
            case TableFound():
                self._find(item)
            case TableDropped():
                self._drop(item)
            case FeedBatch():
                self._capture(self._feeds[item.feed_id], item)
            case FeedOpened():
                self._open(self._feeds[item.feed_id], item)
            case SnapshotRead():
                self._end_reading(self._feeds[item.feed_id], item)
            case FeedClosed():
                self._close(self._feeds[item.feed_id], item)

    def keep(self, feed: Feed) -> None:
        """Remember a feed, with nothing of it to be written."""
        self._feeds[feed.id] = feed

    def save(self, feed: Feed) -> None:
        """Remember a feed, and write what the outbox keeps of it."""
        self._feeds[feed.id] = feed
        self._to_save[feed.id] = None

    # Tables that come and go.

    def _feed_of(self, name: TableName) -> Feed | None:
        return next((feed for feed in self._feeds.values() if feed.name == name), None)

    def _find(self, item: TableFound) -> None:
        feed = self._feed_of(item.table.name)
        if feed is None:
            feed = self._register(item.table)
            self._kept[feed.id] = feed
        if feed.is_dropped:
            # Created again while the sweep looked for its deletes: the new table's first
            # comparison finds the rest of them.
            feed = replace(
                feed,
                state=next_state(feed.state, FeedEvent.LOST),
                state_since=item.at,
                is_dropped=False,
                snapshot=None,
            )
        self._feeds[feed.id] = feed
        self.found.append(feed)

    def _drop(self, item: TableDropped) -> None:
        """Give the feed an empty snapshot, which `sweep` compares with the index."""
        feed = self._feed_of(item.name)
        if feed is None:
            return  # its deletes are captured already
        if feed.open_gap is None and feed.opened_at is not None:
            cause = Cause.START if feed.is_restarted else Cause.ABORTED
            feed = self._with_gap(feed, cause, feed.alive_at or feed.opened_at)
        key_name = feed.rules.primary_key if feed.indexed_key is None else feed.indexed_key
        self.save(
            replace(
                feed,
                state=next_state(feed.state, FeedEvent.LOST),
                state_since=item.at,
                is_dropped=True,
                snapshot=self._snapshot(SnapshotRules(Origin.RESYNC), key_name, is_read=True),
                last_error="the table was dropped",
                last_error_at=item.at,
            )
        )

    def _snapshot(self, rules: SnapshotRules, key_name: str, *, is_read: bool = False) -> Snapshot:
        return Snapshot(rules, SeenRows(), key_name, self._row_ids.next_id, is_read)

    # The life of a feed.

    def _open(self, feed: Feed, item: FeedOpened) -> None:
        if feed.opened_at is not None:
            if feed.open_gap is None:
                # The process died without recording a gap: changes may be missing since the last
                # sign of life.
                feed = self._with_gap(feed, Cause.START, feed.alive_at or feed.opened_at)
            gap = feed.open_gap
            cause = Cause.START if feed.is_restarted or gap is None else gap.cause
            self.tally["resyncs", str(feed.name), cause.value] += 1
        if feed.table_id not in (None, item.table_id):
            self.notes.append(("another table has this name now", {"table": str(feed.name)}))
        is_first = feed.first_ready_at is None
        rules = SnapshotRules(
            origin=Origin.SNAPSHOT if is_first else Origin.RESYNC,
            # Once a guarded comparison has recorded what the table had, the rest is new.
            absorb_unknown=is_first and feed.is_baseline and feed.guard is None,
            absorb_changed=feed.absorb_changed,
        )
        key_name = item.primary_key if feed.indexed_key is None else feed.indexed_key
        self.save(
            replace(
                feed,
                state=next_state(feed.state, FeedEvent.OPENED),
                state_since=item.at,
                rules=dataclasses.replace(feed.rules, primary_key=item.primary_key),
                table_id=item.table_id,
                opened_at=item.at,
                compared=0,
                is_restarted=False,
                # Until the comparison is complete, the index may have documents of an older table.
                indexed_key=item.primary_key if is_first else feed.indexed_key,
                # Likewise documents with the fields of before and of now. Whatever the next start
                # wants, it is something else, and what is kept of them is forgotten again.
                indexed_projection=(
                    feed.projection if feed.indexed_projection == feed.projection else MIXED
                ),
                snapshot=self._snapshot(rules, key_name),
                last_error=None,
            )
        )
        self.fault_points.append(FaultPoint.FEED_OPENED)

    def _capture(self, feed: Feed, item: FeedBatch) -> None:
        read_key = key_reader(feed.rules.primary_key)
        keys = [
            read_key(change.old_val if change.type == "remove" else change.new_val)
            for change in item.changes
        ]
        plan = reconcile(
            item.changes,
            keys,
            self._looked_up(feed, keys),
            rules=feed.rules,
            snapshot=feed.snapshot.rules if feed.snapshot else None,
        )
        if feed.snapshot is not None:
            # Marks are safe to keep when the commit fails: the same batch is decided again.
            for row_id in plan.seen:
                feed.snapshot.seen.add(row_id)
            self.tally["compared", str(feed.name)] += plan.compared
            self.fault_points.append(FaultPoint.SNAPSHOT_PART)
        is_live = any(draft.origin is Origin.FEED for draft in plan.drafts)
        feed = replace(
            feed,
            alive_at=item.complete_at or item.at,
            changed_at=item.at if is_live else feed.changed_at,
            compared=feed.compared + plan.compared,
        )
        self.add(feed, plan.drafts, item.at)

    def draft(self, feed_id: int) -> IndexDraft:
        """Return a feed's part of the index, as this step changes it."""
        draft = self._index.get(feed_id)
        if draft is None:
            draft = self._index[feed_id] = IndexDraft(self._row_ids)
        return draft

    def _looked_up(self, feed: Feed, keys: Sequence[str]) -> IndexDraft:
        """Return the feed's part of the index, in which these keys are known."""
        draft = self.draft(feed.id)
        if unknown := draft.unknown(keys):
            rows = self._outbox.look_up(
                feed.id,
                unknown,
                with_documents=feed.rules.keep_documents,
                is_in_order=feed.snapshot is not None and not feed.snapshot.is_read,
            )
            draft.know(unknown, rows)
        return draft

    def add(self, feed: Feed, drafts: Sequence[Draft], at: int) -> Feed:
        """Give drafts their numbers; save the feed's progress when there is reason to."""
        new = [
            Entry(number, feed.id, draft.key, draft.op, draft.origin, draft.body, at)
            for number, draft in enumerate(drafts, self.last_entry + 1)
        ]
        self.last_entry += len(new)
        if (seal := feed.rules.seal) is not None:
            new = [replace(entry, body=seal(entry)) for entry in new]
        self.entries += new
        repairs: dict[str, int] = {}
        for (op, origin), count in Counter((each.op, each.origin) for each in drafts).items():
            self.tally["captured", str(feed.name), op.value, origin.value] += count
            if origin is Origin.RESYNC:
                self.tally["repairs", str(feed.name), op.value] += count
                repairs[_REPAIRS[op]] = count
        if repairs and (gap := feed.open_gap) is not None:
            sums = {name: getattr(gap, name) + count for name, count in repairs.items()}
            feed = replace(feed, gap=replace(gap, **sums))
        feed = replace(feed, captured=feed.captured + len(drafts))
        if drafts or at - feed.saved_at >= _PROGRESS_EVERY:
            feed = replace(feed, saved_at=at)
            self.save(feed)
        else:
            self._feeds[feed.id] = feed
        return feed

    def _end_reading(self, feed: Feed, item: SnapshotRead) -> None:
        if feed.snapshot is None:
            raise ValueError("a feed became ready without a snapshot")
        read = replace(feed.snapshot, is_read=True)
        alive_at = item.complete_at or item.at
        self._feeds[feed.id] = replace(feed, snapshot=read, alive_at=alive_at)

    def _close(self, feed: Feed, item: FeedClosed) -> None:
        was_open = feed.state is not FeedState.LOST
        # Not at an orderly end: the next start records that gap, once its length is known.
        if item.cause is not Cause.START and was_open and feed.open_gap is None:
            feed = self._with_gap(feed, item.cause, item.complete_at or item.at)
        gap = feed.open_gap
        if item.skipped:
            self.tally["skipped", str(feed.name)] += item.skipped
            if gap is not None:
                feed = replace(feed, gap=replace(gap, skipped=gap.skipped + item.skipped))
        self.save(
            replace(
                feed,
                state=next_state(feed.state, FeedEvent.LOST),
                state_since=item.at if was_open else feed.state_since,
                alive_at=(item.complete_at or item.at)
                if was_open and gap is None
                else feed.alive_at,
                skipped=feed.skipped + item.skipped,
                snapshot=None,
                last_error=item.error or feed.last_error,
                last_error_at=item.at if item.error else feed.last_error_at,
            )
        )

    def _with_gap(self, feed: Feed, cause: Cause, complete_at: int) -> Feed:
        is_split = cause is Cause.ABORTED
        opened_at = complete_at - (_ON_ITS_WAY_IN_A_SPLIT if is_split else _ON_ITS_WAY)
        self.tally["gaps", str(feed.name), cause.value] += 1
        return replace(feed, gap=Gap(cause, max(0, opened_at)))

    # The end of a comparison.

    def complete(self, feed: Feed, now: int) -> None:
        """Make the feed ready and close its gap: every document was compared."""
        facts: dict[str, object] = {"table": str(feed.name), "documents": feed.compared}
        if (gap := feed.open_gap) is not None:
            facts |= {"created": gap.created, "updated": gap.updated, "deleted": gap.deleted}
        self.save(
            replace(
                self._compared(feed, now),
                state=next_state(feed.state, FeedEvent.COMPARED),
                state_since=now,
                ready_at=now,
                first_ready_at=feed.first_ready_at or now,
                indexed_projection=feed.projection,
                indexed_key=feed.rules.primary_key,
            )
        )
        self.notes.append(("feed is ready", facts))
        self.fault_points.append(FaultPoint.FEED_READY)

    def end(self, feed: Feed, now: int) -> None:
        """Close the feed of a table that is gone; a table of this name will be a new one."""
        facts: dict[str, object] = {"table": str(feed.name)}
        if (gap := feed.open_gap) is not None:
            facts["deleted"] = gap.deleted
        self.save(
            replace(
                self._compared(feed, now),
                state=next_state(feed.state, FeedEvent.DROPPED),
                table_id=None,
                indexed_key=None,
                opened_at=None,
                alive_at=now,
                first_ready_at=None,
                ready_at=None,
                compared=0,
                last_error=None,
                last_error_at=None,
            )
        )
        self._ended[feed.id] = self._feeds.pop(feed.id)
        self.dropped.append(feed)
        self.notes.append(("table was dropped, its deletes are captured", facts))

    def _compared(self, feed: Feed, now: int) -> Feed:
        """Return the feed without its snapshot, all of which was compared."""
        if feed.first_ready_at is None:
            # Rows that stand for documents deleted during the snapshot are not needed any more.
            self.draft(feed.id).forgets_deleted = True
        gap = feed.open_gap
        return replace(
            feed,
            absorb_changed=False,
            guard=None,
            gap=feed.gap if gap is None else replace(gap, closed_at=now),
            snapshot=None,
        )
