"""Looks for deletes: the documents of the index that a finished snapshot did not contain.

First it counts them, page by page, then the guard decides, and only then it sweeps: the first
delete is captured when the number of all of them is known (ADR 9).
"""

import dataclasses
from typing import Final

from msgspec.structs import replace

from replicator.domain.feed import Feed, Snapshot
from replicator.domain.feed_state import FeedEvent, FeedState, next_state
from replicator.domain.guard import MAX_KEYS, SHARE_APPLIES_ABOVE, Guard, Missing, held_back
from replicator.domain.index import DELETED
from replicator.domain.reconcile import deletes
from replicator.fault_points import FaultPoint, reach
from replicator.outbox.port import Outbox, Search
from replicator.store.capture import Capture

_SWEEP_ROWS: Final = 5000
# Kept documents are read into memory, for the messages of their deletes.
_SWEEP_BYTES: Final = 8 * 1024 * 1024


def sweep(capture: Capture, outbox: Outbox, feed: Feed, snapshot: Snapshot, now: int) -> None:
    """Count one page, or capture the deletes of one; decide in between."""
    reach(FaultPoint.BEFORE_SWEEP)
    if snapshot.swept_to is None:
        snapshot = replace(snapshot, missing=_counted(outbox, feed, snapshot))
        if snapshot.missing.next_start is not None:
            capture.keep(replace(feed, snapshot=snapshot))
            return
        # Order matters: the guard decides on the whole count, and before the first delete. Else a
        # part of the deletes would be out, and the rest would be too few to be held back.
        guard = _guard(feed, snapshot.missing, now)
        if guard is not None:
            _hold(capture, feed, snapshot, guard)
            return
        _note_many(capture, feed, snapshot.missing)
        snapshot = replace(snapshot, swept_to=snapshot.missing.first_start)
    if snapshot.swept_to is None:
        _finish(capture, feed, now)
    else:
        _sweep_page(capture, outbox, feed, snapshot, snapshot.swept_to, now)


def released(feed: Feed, found_at: int, deletes: int, now: int) -> Feed:
    """Return a feed after an operator accepted a number of deletes that were found at an instant.

    A comparison that is held goes on. One that is under way, or that comes next, decides with it.
    Nothing changes if another was held since: the operator was shown what that one did not find.
    """
    if feed.guard is None or feed.guard.at != found_at:
        return feed
    guard = replace(feed.guard, accepted=deletes)
    feed = replace(feed, guard=guard)
    snapshot = feed.snapshot
    if snapshot is None or not snapshot.is_held or _guard(feed, snapshot.missing, now) is not None:
        return feed
    is_paused = feed.state is FeedState.PAUSED
    return replace(
        feed,
        state=feed.state if is_paused else next_state(feed.state, FeedEvent.ACCEPTED),
        state_since=feed.state_since if is_paused else now,
        snapshot=replace(snapshot, is_held=False, swept_to=snapshot.missing.first_start),
    )


def _guard(feed: Feed, missing: Missing, now: int) -> Guard | None:
    return held_back(feed.delete_limit, missing, feed.guard, table_id=feed.table_id, at=now)


def _counted(outbox: Outbox, feed: Feed, snapshot: Snapshot) -> Missing:
    """Return the count with one more page."""
    missing = snapshot.missing
    start = missing.next_start or ""
    search = Search(feed.id, snapshot.seen, start, _SWEEP_ROWS)
    page = outbox.count_unseen(search, snapshot.first_new_row)
    is_first = missing.first_start is None and bool(page.keys)
    return Missing(
        missing.deletes + len(page.keys),
        missing.documents + page.documents,
        (*missing.keys, *page.keys)[:MAX_KEYS],
        start if is_first else missing.first_start,
        page.next_start,
    )


def _hold(capture: Capture, feed: Feed, snapshot: Snapshot, guard: Guard) -> None:
    """Leave the documents in the index: live changes go on, the gap stays open."""
    capture.save(
        replace(
            feed,
            state=next_state(feed.state, FeedEvent.GUARDED),
            state_since=guard.at,
            guard=guard,
            # All that the table has was compared, and recorded if that was asked for. What changes
            # from here on is published, even if it is the next comparison that finds it.
            absorb_changed=False,
            snapshot=replace(snapshot, is_held=True),
        )
    )
    capture.warnings.append(
        (
            "too many documents are gone: their deletes are held back",
            {
                "table": str(feed.name),
                "deletes": guard.deletes,
                "documents": guard.documents,
                "hint": "check that this is the right server and table; if it is: "
                f"`replicator feed accept-deletes {feed.name}`",
            },
        )
    )


def _note_many(capture: Capture, feed: Feed, missing: Missing) -> None:
    if missing.deletes > SHARE_APPLIES_ABOVE:
        facts = {"deletes": missing.deletes, "documents": missing.documents}
        text = "many documents are gone: capturing their deletes"
        capture.notes.append((text, {"table": str(feed.name), **facts}))


def _sweep_page(
    capture: Capture, outbox: Outbox, feed: Feed, snapshot: Snapshot, start: str, now: int
) -> None:
    with_values = feed.rules.keep_documents or feed.first_ready_at is None
    search = Search(feed.id, snapshot.seen, start, _SWEEP_ROWS, _SWEEP_BYTES, with_values)
    page = outbox.unseen(search)
    # What was not seen may be of an older table of this name, with another primary key.
    rules = dataclasses.replace(feed.rules, primary_key=snapshot.key_name)
    if page.rows:
        draft = capture.draft(feed.id)
        draft.know((), page.rows)
        for key in page.rows:
            if feed.is_baseline and feed.first_ready_at is None:
                # If the document is created again while no feed is open, the next snapshot
                # must not see it as one that was always there.
                draft.put(key, DELETED, None)
            else:
                draft.remove(key)
    feed = capture.add(feed, deletes(page.rows.items(), rules=rules), now)
    if page.next_start is not None:
        capture.keep(replace(feed, snapshot=replace(snapshot, swept_to=page.next_start)))
        capture.fault_points.append(FaultPoint.SWEEP_PART)
    else:
        _finish(capture, feed, now)


def _finish(capture: Capture, feed: Feed, now: int) -> None:
    """End a comparison: all documents were compared, all deletes are captured."""
    if feed.is_dropped:
        capture.end(feed, now)
    else:
        capture.complete(feed, now)
