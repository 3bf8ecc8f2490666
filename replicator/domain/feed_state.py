"""The states of a feed, and what moves it from one to another.

ARCHITECTURE.md draws this table. The check comes before the effect: an event that a state does
not know is our own mistake, and raises.
"""

from enum import StrEnum
from typing import Final


class FeedState(StrEnum):
    """Where a table's feed stands."""

    LOST = "lost"  # no changefeed is open
    INITIALIZING = "initializing"  # the snapshot is read and compared
    GUARDED = "guarded"  # changes are captured, but too many deletes of the comparison wait
    READY = "ready"  # every change is captured as it happens
    PAUSED = "paused"  # the outbox is full; nothing is read
    DROPPED = "dropped"  # the table is gone and its deletes are captured


class FeedEvent(StrEnum):
    """What can happen to a feed."""

    OPENED = "opened"
    COMPARED = "compared"  # the snapshot was read to its end, deletes found
    GUARDED = "guarded"  # the snapshot was read; the guard does not let its deletes go
    ACCEPTED = "accepted"  # an operator lets them go
    LOST = "lost"
    PAUSED = "paused"
    RESUMED_GUARDED = "resumed guarded"
    RESUMED_SNAPSHOT = "resumed snapshot"
    RESUMED = "resumed"
    DROPPED = "dropped"


TRANSITIONS: Final[dict[tuple[FeedState, FeedEvent], FeedState]] = {
    (FeedState.LOST, FeedEvent.OPENED): FeedState.INITIALIZING,
    (FeedState.LOST, FeedEvent.LOST): FeedState.LOST,
    (FeedState.LOST, FeedEvent.DROPPED): FeedState.DROPPED,
    (FeedState.LOST, FeedEvent.GUARDED): FeedState.GUARDED,  # of a table that was dropped
    (FeedState.INITIALIZING, FeedEvent.GUARDED): FeedState.GUARDED,
    (FeedState.INITIALIZING, FeedEvent.DROPPED): FeedState.DROPPED,
    (FeedState.GUARDED, FeedEvent.ACCEPTED): FeedState.INITIALIZING,
    (FeedState.GUARDED, FeedEvent.LOST): FeedState.LOST,
    (FeedState.GUARDED, FeedEvent.PAUSED): FeedState.PAUSED,
    (FeedState.PAUSED, FeedEvent.RESUMED_GUARDED): FeedState.GUARDED,
    (FeedState.INITIALIZING, FeedEvent.COMPARED): FeedState.READY,
    (FeedState.INITIALIZING, FeedEvent.LOST): FeedState.LOST,
    (FeedState.INITIALIZING, FeedEvent.PAUSED): FeedState.PAUSED,
    (FeedState.READY, FeedEvent.LOST): FeedState.LOST,
    (FeedState.READY, FeedEvent.PAUSED): FeedState.PAUSED,
    (FeedState.PAUSED, FeedEvent.RESUMED_SNAPSHOT): FeedState.INITIALIZING,
    (FeedState.PAUSED, FeedEvent.RESUMED): FeedState.READY,
    (FeedState.PAUSED, FeedEvent.LOST): FeedState.LOST,
    (FeedState.DROPPED, FeedEvent.LOST): FeedState.LOST,
}


def next_state(state: FeedState, event: FeedEvent) -> FeedState:
    """Return the state after an event.

    Raises:
        ValueError: the event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a feed that is {state} cannot be {event}") from None
