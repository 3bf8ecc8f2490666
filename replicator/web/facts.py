"""What is said of feeds and outbox, the same by the service and by a command without it."""

import time
from typing import Any, Final

from replicator.config import Outbox as OutboxSettings
from replicator.domain.feed import Feed
from replicator.domain.instants import shown as instant
from replicator.log import redact_text
from replicator.outbox.port import Totals

# A server may say much in an error; its beginning says what is wrong.
_MAX_ERROR_CHARACTERS: Final = 1000

Facts = dict[str, Any]
"""JSON of `/status` or of a part of it, as docs/http.md describes it."""


def shown(error: str | None) -> str | None:
    """Return an error's text as it may be shown: no password, not a book."""
    return error and redact_text(error)[:_MAX_ERROR_CHARACTERS]


def oldest_age_seconds(totals: Totals) -> float:
    """Return how long the oldest pending entry has waited; 0 when there is none."""
    oldest = totals.oldest_captured_at
    return 0.0 if oldest is None else max(0.0, time.time() - oldest / 1e6)


def outbox_facts(
    settings: OutboxSettings,
    outbox_id: str | None,
    totals: Totals,
    *,
    is_full: bool,
    error: str | None = None,
) -> Facts:
    """Return what ``/status`` says of the outbox."""
    return {
        "id": outbox_id,
        "pending": totals.pending,
        "parked": totals.parked,
        "bytes": totals.bytes,
        "oldest_entry_age_seconds": round(oldest_age_seconds(totals), 3),
        "max_entries": settings.max_entries,
        "max_bytes": settings.max_bytes,
        "full": is_full,
        "error": shown(error),
    }


def feed_facts(feed: Feed) -> Facts:
    """Return what ``/status`` says of a feed."""
    gap, guard = feed.open_gap, feed.guard
    return {
        "table": str(feed.name),
        "state": feed.state.value,
        # The outbox does not have it for every state.
        "since": instant(feed.state_since or None),
        "ready_at": instant(feed.ready_at),
        "changed_at": instant(feed.changed_at),
        "captured": feed.captured,
        "snapshot_documents": feed.compared,
        "skipped": feed.skipped,
        "gap": gap and {"cause": gap.cause.value, "from": instant(gap.opened_at)},
        "guarded": guard
        and {
            "deletes": guard.deletes,
            "documents": guard.documents,
            "at": instant(guard.at),
        },
        "last_error": shown(feed.last_error),
        "last_error_at": instant(feed.last_error_at),
    }
