"""When the feeds pause because the outbox is full, and when they go on (promise G5)."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedEvent, FeedState, next_state
from replicator.outbox.port import Outbox, Totals

# Feeds go on only when the outbox is this far below its limit. Otherwise they would stop and go
# with every message, and RethinkDB's queue would overflow each time.
_RESUME_AT: Final = 0.9


class OutboxLimits(NamedTuple):
    """How much the outbox may contain before the feeds pause."""

    entries: int
    bytes: int

    def is_full(self, totals: Totals, *, was_full: bool) -> bool:
        """Return whether the feeds must pause, or stay paused."""
        count = totals.pending + totals.parked
        if was_full:
            return count > self.entries * _RESUME_AT or totals.bytes > self.bytes * _RESUME_AT
        return count >= self.entries or totals.bytes >= self.bytes


class Pausing:
    """Whether the outbox is full, by its limits or for want of room."""

    def __init__(self, outbox: Outbox, limits: OutboxLimits) -> None:
        """Start with room."""
        self._outbox = outbox
        self._limits = limits
        self._is_room_low = False
        self.is_full = False
        self.is_saved = True
        """Whether the outbox has the feeds' present states; whoever saves them sets it."""

    def changes(self, totals: Totals, *, looks_at_room: bool) -> bool:
        """Check again; returns whether the outbox became full, or has room again.

        To ask for the room takes as long as a statement, so small steps leave that to the check
        that is made once a second.
        """
        was_full = self.is_full
        if looks_at_room:
            self._is_room_low = self._outbox.is_room_low(was_low=was_full)
        self.is_full = self._is_room_low or self._limits.is_full(totals, was_full=was_full)
        has_changed = self.is_full is not was_full
        self.is_saved = self.is_saved and not has_changed
        return has_changed

    def applied(self, feeds: Mapping[int, Feed], at: int) -> dict[int, Feed]:
        """Return the feeds paused while the outbox is full, and resumed when it is not."""
        change = _paused if self.is_full else _resumed
        return {feed.id: change(feed, at) for feed in feeds.values()}


def _paused(feed: Feed, at: int) -> Feed:
    if feed.state not in (FeedState.INITIALIZING, FeedState.GUARDED, FeedState.READY):
        return feed
    return _after(feed, FeedEvent.PAUSED, at)


def _resumed(feed: Feed, at: int) -> Feed:
    if feed.state is not FeedState.PAUSED:
        return feed
    if feed.snapshot is None:
        return _after(feed, FeedEvent.RESUMED, at)
    is_held = feed.snapshot.is_held
    return _after(feed, FeedEvent.RESUMED_GUARDED if is_held else FeedEvent.RESUMED_SNAPSHOT, at)


def _after(feed: Feed, event: FeedEvent, at: int) -> Feed:
    return replace(feed, state=next_state(feed.state, event), state_since=at)
