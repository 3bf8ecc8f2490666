"""When the feeds pause because the outbox is full, and when they go on (promise G5)."""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedEvent, FeedState, next_state
from replicator.outbox.sqlite.entries import Totals

# A feed goes on when the outbox is this far below its limit: without the distance it would stop
# and go with every message, and RethinkDB would overflow each time.
_RESUME_AT: Final = 0.9
_RESERVE_BYTES: Final = 128 * 1024 * 1024
_RESERVE_SHARE: Final = 10  # of a small volume no more than a tenth is kept free


class Limits(NamedTuple):
    """How much may lie in the outbox before the feeds pause."""

    entries: int
    bytes: int

    def is_full(self, totals: Totals, *, was_full: bool) -> bool:
        """Return whether the feeds must pause, or must still."""
        count = totals.pending + totals.parked
        if was_full:
            return count > self.entries * _RESUME_AT or totals.bytes > self.bytes * _RESUME_AT
        return count >= self.entries or totals.bytes >= self.bytes


def is_disk_low(directory: Path, *, was_full: bool) -> bool:
    """Return whether the volume has so little room that the outbox counts as full.

    Settling needs a little room too: on a disk that is full to the last page nothing could be
    deleted, and a backlog could never drain.
    """
    usage = shutil.disk_usage(directory)
    reserve = min(_RESERVE_BYTES, usage.total // _RESERVE_SHARE)
    return usage.free < (2 * reserve if was_full else reserve)


def paused(feed: Feed, at: int) -> Feed:
    """Return the feed as it is while the outbox is full."""
    if feed.state not in (FeedState.INITIALIZING, FeedState.READY):
        return feed
    return _after(feed, FeedEvent.PAUSED, at)


def resumed(feed: Feed, at: int) -> Feed:
    """Return the feed as it is when there is room again."""
    if feed.state is not FeedState.PAUSED:
        return feed
    return _after(feed, FeedEvent.RESUMED_SNAPSHOT if feed.snapshot else FeedEvent.RESUMED, at)


def _after(feed: Feed, event: FeedEvent, at: int) -> Feed:
    return replace(feed, state=next_state(feed.state, event), state_since=at)
