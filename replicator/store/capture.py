"""What one transaction does with the items of the readers: the way from a feed to the outbox.

The state of a feed in memory is immutable: a step works on copies, and the store keeps them
only when the transaction was committed. So a step that failed (disk full, locked) is done again
from the same items, with the same result.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace
from sqlalchemy import Connection

from replicator.domain.feed import Feed, Gap, Snapshot
from replicator.domain.feed_element import key_reader
from replicator.domain.feed_state import FeedEvent, FeedState, next_state
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
from replicator.domain.model import Cause, Entry, Op, Origin, TableName
from replicator.domain.reconcile import Draft, SnapshotRules, deletes, reconcile
from replicator.domain.seen_rows import SeenRows
from replicator.fault_points import FaultPoint, reach
from replicator.outbox.sqlite import feeds, index

_SWEEP_ROWS: Final = 5000
# Documents that are kept come into memory, and into the messages of their deletes.
_SWEEP_BYTES: Final = 8 * 1024 * 1024
_REPAIRS: Final = {Op.CREATE: "created", Op.UPDATE: "updated", Op.DELETE: "deleted"}
# Progress alone is not worth a commit of its own more often than this.
_PROGRESS_EVERY: Final = 1_000_000  # microseconds
# What the server has not yet told when it says that it has no more. A writer's answer may come
# before the change has reached the feed, from each shard at a pace of its own. And a server that
# is cut off from a primary notices after 10 seconds, its default; 14.5 were measured.
_ON_ITS_WAY: Final = 1_000_000  # microseconds
_ON_ITS_WAY_IN_A_SPLIT: Final = 15_000_000


class Capture:
    """The capture side of one transaction.

    Use `handle` and `sweep`, then `new_entries`, and take `feeds`, `tally` and `notes` only
    after the commit.
    """

    def __init__(
        self,
        connection: Connection,
        all_feeds: Mapping[int, Feed],
        *,
        last_number: int,
        next_row_id: int,
        register: Callable[[TableSettings], Feed],
    ) -> None:
        """Begin with what the store knew after the last commit.

        ``register`` makes or finds the feed of a table that was found, in this transaction.
        """
        self._connection = connection
        self._register = register
        self.feeds: dict[int, Feed] = dict(all_feeds)
        self.last_number = last_number
        self.next_row_id = next_row_id
        self.new_entries: list[Entry] = []
        self.tally: Counter[tuple[str, ...]] = Counter()
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.fault_points: list[FaultPoint] = []  # reached by the commit
        self.found: list[Feed] = []  # of tables that were found
        self.dropped: list[Feed] = []  # those that are done with

    def handle(self, item: Item) -> None:
        """Do what one item asks for."""
        if isinstance(item, TableFound):
            self._find(item)
            return
        if isinstance(item, TableDropped):
            self._drop(item)
            return
        feed = self.feeds[item.feed_id]
        match item:
            case FeedBatch():
                self._capture(feed, item)
            case FeedOpened():
                self._open(feed, item)
            case SnapshotRead():
                self._end_reading(feed, item)
            case FeedClosed():
                self._close(feed, item)

    def sweep(self, feed_id: int, now: int) -> bool:
        """Look for deleted documents on one page of the index; whether there is more to do."""
        feed = self.feeds[feed_id]
        snapshot = feed.snapshot
        if snapshot is None or not snapshot.is_read:
            return False
        reach(FaultPoint.BEFORE_SWEEP)
        page = index.unseen(
            self._connection,
            feed.id,
            snapshot.seen,
            start=snapshot.swept_to,
            most=_SWEEP_ROWS,
            most_bytes=_SWEEP_BYTES,
            with_values=feed.rules.keep_documents or feed.first_ready_at is None,
        )
        # What was not seen may be of an older table of this name, with another primary key.
        rules = dataclasses.replace(feed.rules, primary_key=snapshot.key_name)
        drafts, gone = deletes(page.rows.items(), rules=rules)
        if feed.is_baseline and feed.first_ready_at is None:
            # If one is made again before the comparison is complete, and nobody watches, it must
            # not be taken for a document that was always there.
            index.mark_deleted(self._connection, gone)
        else:
            index.remove(self._connection, gone)
        feed = self._add(feed, drafts, now)
        if page.next_start is not None:
            swept = replace(snapshot, swept_to=page.next_start)
            self.feeds[feed.id] = replace(feed, snapshot=swept)
            self.fault_points.append(FaultPoint.SWEEP_PART)
            return True
        if feed.is_dropped:
            self._end(feed, now)
        else:
            self._complete(feed, now)
        return False

    def _feed_of(self, name: TableName) -> Feed | None:
        return next((feed for feed in self.feeds.values() if feed.name == name), None)

    def _find(self, item: TableFound) -> None:
        feed = self._feed_of(item.table.name) or self._register(item.table)
        if feed.is_dropped:
            # Created again while its deletes were looked for: the new table's first comparison
            # finds the rest of them.
            feed = replace(feed, is_dropped=False, snapshot=None)
        self.feeds[feed.id] = feed
        self.found.append(feed)

    def _drop(self, item: TableDropped) -> None:
        """Compare the index with an empty snapshot, which `sweep` then does."""
        feed = self._feed_of(item.name)
        if feed is None:
            return  # it was done with before
        gap = feed.gap
        if gap is None and feed.opened_at is not None:
            cause = Cause.START if feed.is_restarted else Cause.ABORTED
            gap = self._record_gap(feed, cause, feed.alive_at or feed.opened_at)
        key_name = feed.rules.primary_key if feed.indexed_key is None else feed.indexed_key
        self.feeds[feed.id] = replace(
            feed,
            state=next_state(feed.state, FeedEvent.LOST),
            state_since=item.at,
            gap=gap,
            is_dropped=True,
            snapshot=Snapshot(SnapshotRules(Origin.RESYNC), SeenRows(), key_name, is_read=True),
            last_error="the table was dropped: its deletes are being captured",
            last_error_at=item.at,
        )

    def _end(self, feed: Feed, now: int) -> None:
        """Close the feed of a table that is gone: one that is made again is a new one."""
        if feed.first_ready_at is None:
            index.forget_deleted(self._connection, feed.id)
        facts: dict[str, object] = {"table": str(feed.name)}
        if feed.gap is not None:
            *_, facts["deleted"] = feeds.close_gap(self._connection, feed.gap.id, now)
        feeds.save(
            self._connection,
            feed.id,
            state=next_state(feed.state, FeedEvent.DROPPED).value,
            table_id=None,
            primary_key=None,
            absorb_changed=0,
            opened_at=None,
            alive_at=now,
            first_ready_at=None,
            ready_at=None,
            captured=feed.captured,
            snapshot_documents=0,
            last_error=None,
            last_error_at=None,
        )
        del self.feeds[feed.id]
        self.dropped.append(feed)
        self.notes.append(("table was dropped, its deletes are captured", facts))

    def _open(self, feed: Feed, item: FeedOpened) -> None:
        gap = feed.gap
        if feed.opened_at is not None:
            if gap is None:
                # The process died without a word. Since the last sign of life, who knows.
                gap = self._record_gap(feed, Cause.START, feed.alive_at or feed.opened_at)
            cause = Cause.START if feed.is_restarted else gap.cause
            self.tally["resyncs", str(feed.name), cause.value] += 1
        if feed.table_id not in (None, item.table_id):
            self.notes.append(("table was dropped and created again", {"table": str(feed.name)}))
        is_first = feed.first_ready_at is None
        snapshot_rules = SnapshotRules(
            origin=Origin.SNAPSHOT if is_first else Origin.RESYNC,
            absorb_unknown=is_first and feed.is_baseline,
            absorb_changed=feed.absorb_changed,
        )
        opened = replace(
            feed,
            state=next_state(feed.state, FeedEvent.OPENED),
            state_since=item.at,
            rules=dataclasses.replace(feed.rules, primary_key=item.primary_key),
            table_id=item.table_id,
            opened_at=item.at,
            compared=0,
            gap=gap,
            is_restarted=False,
            indexed_key=item.primary_key if is_first else feed.indexed_key,
            snapshot=Snapshot(
                snapshot_rules,
                SeenRows(),
                item.primary_key if feed.indexed_key is None else feed.indexed_key,
            ),
            last_error=None,
        )
        feeds.save(
            self._connection,
            feed.id,
            state=opened.state.value,
            table_id=item.table_id,
            # Until the comparison is complete, the index may have documents of an older table.
            **({"primary_key": item.primary_key} if is_first else {}),
            opened_at=item.at,
            snapshot_documents=0,
        )
        self.feeds[feed.id] = opened
        self.fault_points.append(FaultPoint.FEED_OPENED)

    def _capture(self, feed: Feed, item: FeedBatch) -> None:
        read_key = key_reader(feed.rules.primary_key)
        keys = [
            read_key(change.old_val if change.type == "remove" else change.new_val)
            for change in item.changes
        ]
        known = index.lookup(
            self._connection,
            feed.id,
            keys,
            with_documents=feed.rules.keep_documents,
            is_in_order=feed.snapshot is not None,
        )
        plan = reconcile(
            item.changes,
            keys,
            known,
            rules=feed.rules,
            snapshot=feed.snapshot.rules if feed.snapshot else None,
            next_row_id=self.next_row_id,
        )
        index.apply(self._connection, feed.id, plan)
        self.next_row_id = plan.next_row_id
        if feed.snapshot is not None:
            # Marks are safe to keep when the transaction fails: the same batch is done again.
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
        self.feeds[feed.id] = self._add(feed, plan.drafts, item.at)

    def _add(self, feed: Feed, drafts: Sequence[Draft], at: int) -> Feed:
        """Give drafts their numbers; save the feed's progress when there is reason to."""
        new = [
            Entry(number, feed.id, draft.key, draft.op, draft.origin, draft.body, at)
            for number, draft in enumerate(drafts, self.last_number + 1)
        ]
        self.last_number += len(new)
        if (seal := feed.rules.seal) is not None:
            new = [replace(entry, body=seal(entry)) for entry in new]
        self.new_entries += new
        counts = Counter((draft.op, draft.origin) for draft in drafts)
        repairs: dict[str, int] = {}
        for (op, origin), count in counts.items():
            self.tally["captured", str(feed.name), op.value, origin.value] += count
            if origin is Origin.RESYNC:
                self.tally["repairs", str(feed.name), op.value] += count
                repairs[_REPAIRS[op]] = count
        if repairs and feed.gap is not None:
            feeds.add_to_gap(self._connection, feed.gap.id, **repairs)
        feed = replace(feed, captured=feed.captured + len(drafts))
        if drafts or at - feed.saved_at >= _PROGRESS_EVERY:
            feed = replace(feed, saved_at=at)
            feeds.save(
                self._connection,
                feed.id,
                alive_at=feed.alive_at,
                changed_at=feed.changed_at,
                captured=feed.captured,
                snapshot_documents=feed.compared,
            )
        return feed

    def _end_reading(self, feed: Feed, item: SnapshotRead) -> None:
        if feed.snapshot is None:
            raise ValueError("a feed became ready without a snapshot")
        read = replace(feed.snapshot, is_read=True)
        alive_at = item.complete_at or item.at
        self.feeds[feed.id] = replace(feed, snapshot=read, alive_at=alive_at)

    def _complete(self, feed: Feed, now: int) -> None:
        """Every document was compared: the feed is ready, its gap is closed."""
        if feed.first_ready_at is None:
            # What was deleted behind the sweep, while it went on.
            index.forget_deleted(self._connection, feed.id)
        facts: dict[str, object] = {"table": str(feed.name), "documents": feed.compared}
        if feed.gap is not None:
            created, updated, deleted = feeds.close_gap(self._connection, feed.gap.id, now)
            facts |= {"created": created, "updated": updated, "deleted": deleted}
        ready = replace(
            feed,
            state=next_state(feed.state, FeedEvent.COMPARED),
            state_since=now,
            ready_at=now,
            first_ready_at=feed.first_ready_at or now,
            absorb_changed=False,
            indexed_key=feed.rules.primary_key,
            gap=None,
            snapshot=None,
        )
        feeds.save(
            self._connection,
            feed.id,
            state=ready.state.value,
            primary_key=feed.rules.primary_key,
            projection=feed.projection,
            absorb_changed=0,
            alive_at=feed.alive_at,
            ready_at=now,
            first_ready_at=ready.first_ready_at,
            captured=feed.captured,
            snapshot_documents=feed.compared,
        )
        self.feeds[feed.id] = ready
        self.notes.append(("feed is ready", facts))
        self.fault_points.append(FaultPoint.FEED_READY)

    def _close(self, feed: Feed, item: FeedClosed) -> None:
        gap = feed.gap
        was_open = feed.state is not FeedState.LOST
        # Not at an orderly end: the next start records that gap, when it knows how long it was.
        if item.cause is not Cause.START and was_open and gap is None:
            gap = self._record_gap(feed, item.cause, item.complete_at or item.at)
        if item.skipped:
            self.tally["skipped", str(feed.name)] += item.skipped
            if gap is not None:
                feeds.add_to_gap(self._connection, gap.id, skipped=item.skipped)
        lost = replace(
            feed,
            state=next_state(feed.state, FeedEvent.LOST),
            state_since=item.at if was_open else feed.state_since,
            alive_at=(item.complete_at or item.at) if was_open and gap is None else feed.alive_at,
            skipped=feed.skipped + item.skipped,
            gap=gap,
            snapshot=None,
            last_error=item.error or feed.last_error,
            last_error_at=item.at if item.error else feed.last_error_at,
        )
        feeds.save(
            self._connection,
            feed.id,
            state=lost.state.value,
            alive_at=lost.alive_at,
            captured=lost.captured,
            skipped=lost.skipped,
            last_error=lost.last_error,
            last_error_at=lost.last_error_at,
        )
        self.feeds[feed.id] = lost

    def _record_gap(self, feed: Feed, cause: Cause, complete_at: int) -> Gap:
        is_split = cause is Cause.ABORTED
        opened_at = complete_at - (_ON_ITS_WAY_IN_A_SPLIT if is_split else _ON_ITS_WAY)
        self.tally["gaps", str(feed.name), cause.value] += 1
        return feeds.record_gap(self._connection, feed.id, cause, opened_at)
