"""The totals and metrics of what was committed."""

from collections.abc import Mapping, Sequence
from typing import Any

from replicator.domain.feed import Feed
from replicator.domain.model import Outcomes
from replicator.fault_points import FaultPoint, reach
from replicator.metrics import Metrics
from replicator.outbox.port import Committed, Totals
from replicator.store.capture import Capture
from replicator.store.series import ClosedTables


class Books:
    """Counts what each commit did; for the store's thread."""

    def __init__(self, metrics: Metrics) -> None:
        """Start with nothing counted."""
        self._metrics = metrics
        self._closed = ClosedTables(metrics)
        self._shown: dict[int, tuple[str, int]] = {}
        self._counters: dict[str, Any] = {
            "captured": metrics.changes_captured,
            "repairs": metrics.resync_repairs,
            "resyncs": metrics.resyncs,
            "gaps": metrics.gaps,
            "skipped": metrics.changes_skipped,
            "compared": metrics.snapshot_documents,
        }
        self.totals = Totals(0, 0, 0, None)
        self._oldest_pending: int | None = None
        metrics.outbox_entries.labels("pending").set_function(lambda: self.totals.pending)
        metrics.outbox_entries.labels("parked").set_function(lambda: self.totals.parked)
        metrics.outbox_bytes.set_function(lambda: self.totals.bytes)

    def committed(
        self, capture: Capture, outcomes: Sequence[Outcomes], committed: Committed
    ) -> None:
        """Count what one commit did."""
        metrics = self._metrics
        for feed in capture.found:
            self._closed.found(str(feed.name))
            self._shown = {}  # its series start again, even in the same state
        for feed in capture.dropped:
            self._closed.closed(str(feed.name), capture.last_entry)
        for (name, *labels), count in capture.tally.items():
            self._counters[name].labels(*labels).inc(count)
        settled = sum(len(each.settled) for each in outcomes)
        parked = sum(len(each.parked) for each in outcomes)
        for each in outcomes:
            if each.settled:
                reach(FaultPoint.SETTLED)
            for failure in each.parked:
                metrics.entries_parked.labels(failure.reason).inc()
        oldest = committed.oldest_pending
        added = sum(len(entry.body) for entry in capture.entries)
        self.totals = Totals(
            pending=self.totals.pending + len(capture.entries) - settled - parked,
            parked=self.totals.parked + parked,
            bytes=self.totals.bytes + added - sum(each.settled_bytes for each in outcomes),
            oldest_captured_at=oldest[1] if oldest is not None else None,
        )
        self._oldest_pending = oldest[0] if oldest is not None else None

    def look_at_closed(self, last_entry: int) -> None:
        """Drop the series of tables that are gone; to be called about once a second."""
        # Unknown until the next commit if redriven entries are the only ones that are pending.
        oldest = (self._oldest_pending or 0) if self.totals.pending else last_entry + 1
        self._closed.look(oldest)

    def show_feeds(self, feeds: Mapping[int, Feed]) -> None:
        """Bring the metrics of where feeds stand up to date."""
        shown = {
            feed_id: (feed.state.value, feed.guard.deletes if feed.guard else 0)
            for feed_id, feed in feeds.items()
        }
        if shown == self._shown:
            return
        self._shown = shown
        for feed in feeds.values():
            _, held_back = shown[feed.id]
            self._metrics.set_feed_state(str(feed.name), feed.state)
            self._metrics.feed_guarded_deletes.labels(str(feed.name)).set(held_back)
