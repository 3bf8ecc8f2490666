"""What can be said of a running service: probes, status, metrics.

Reads what the parts publish of themselves; changes nothing, and knows no secret.
"""

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any, Final

from replicator import __version__
from replicator.config import Settings
from replicator.domain.feed_state import FeedState
from replicator.metrics import Metrics
from replicator.outbox.capture import Feed
from replicator.outbox.store import Store
from replicator.publisher.publisher import Publisher
from replicator.source.reader import FeedReader
from replicator.web.server import Facts, Verdict

_STORE_STANDS_STILL_SECONDS: Final = 60.0
# A reader or the publisher may wait a minute between attempts, and as long in one of them.
_LOOP_STANDS_STILL_SECONDS: Final = 180.0


def _instant(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    moment = dt.datetime.fromtimestamp(microseconds / 1e6, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Observation:
    """What the HTTP server shows (`replicator.web.server.Observed`); any thread may ask."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: Store,
        publisher: Publisher,
        readers: Sequence[FeedReader],
    ) -> None:
        """Look at these parts; ties the metrics that are read at a scrape to them."""
        self._settings = settings
        self._metrics = metrics
        self._store = store
        self._publisher = publisher
        self._readers = readers
        self.is_stopping = False
        metrics.connected.labels("rethinkdb").set_function(
            lambda: float(all(reader.is_connected for reader in readers))
        )
        metrics.outbox_oldest_age.set_function(self._oldest_age)

    def render_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self._metrics.render()

    def liveness(self) -> Verdict:
        """Return whether every loop makes progress."""
        now = time.monotonic()
        stuck = []
        if now - self._store.status.stepped_at > _STORE_STANDS_STILL_SECONDS:
            stuck.append("store")
        if now - self._publisher.status().turned_at > _LOOP_STANDS_STILL_SECONDS:
            stuck.append("publisher")
        stuck += [
            f"reader {reader.name}"
            for reader in self._readers
            if not reader.is_waiting_for_store
            and now - reader.progressed_at > _LOOP_STANDS_STILL_SECONDS
        ]
        return Verdict(not stuck, {"live": not stuck, "stuck": stuck})

    def readiness(self) -> Verdict:
        """Return whether every feed is ready and the broker takes messages; else what is not."""
        status = self._store.status
        not_ready: list[dict[str, object]] = [
            {
                "part": "feed",
                "table": str(feed.name),
                "state": feed.state.value,
                "since": _instant(feed.state_since),
                "error": feed.last_error if feed.state is FeedState.LOST else None,
            }
            for feed in status.feeds.values()
            if feed.state is not FeedState.READY
        ]
        if status.error is not None:
            not_ready.append(
                {"part": "outbox", "since": _instant(status.error_at), "error": status.error}
            )
        if self.is_stopping:
            not_ready.append({"part": "service", "state": "stopping"})
        is_source_ready = not not_ready
        broker = self._publisher.status()
        if not broker.is_connected or broker.is_blocked:
            not_ready.append(
                {
                    "part": "broker",
                    "state": "blocked" if broker.is_blocked else "disconnected",
                    "since": _instant(int(broker.since * 1e6)),
                    "error": broker.error,
                }
            )
        facts: dict[str, object] = {"ready": not not_ready}
        if not_ready:
            facts["not_ready"] = not_ready
            if is_source_ready:
                facts["degraded"] = "buffering"
        return Verdict(not not_ready, facts)

    def facts(self) -> Facts:
        """Return the facts of ``/status`` and ``replicator status --json``."""
        status, broker = self._store.status, self._publisher.status()
        return {
            "version": __version__,
            "running": True,
            **self.readiness().facts,
            "outbox": {
                "id": status.outbox_id,
                "pending": status.totals.pending,
                "parked": status.totals.parked,
                "bytes": status.totals.bytes,
                "oldest_entry_age_seconds": round(self._oldest_age(), 3),
                "max_entries": self._settings.outbox.max_entries,
                "max_bytes": self._settings.outbox.max_bytes,
                "full": status.is_full,
                "error": status.error,
            },
            "feeds": [feed_facts(feed) for feed in status.feeds.values()],
            "broker": {
                "connected": broker.is_connected,
                "blocked": broker.is_blocked,
                "since": _instant(int(broker.since * 1e6)),
                "in_flight": broker.in_flight,
                "buffered": broker.buffered,
                "refused": broker.refused,
                "exchange": self._settings.rabbitmq.exchange,
                "error": broker.error,
            },
        }

    def _oldest_age(self) -> float:
        oldest = self._store.status.totals.oldest_captured_at
        return max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0


def feed_facts(feed: Feed) -> dict[str, Any]:
    """Return what ``/status`` says of a feed."""
    return {
        "table": str(feed.name),
        "state": feed.state.value,
        "since": _instant(feed.state_since),
        "ready_at": _instant(feed.ready_at),
        "changed_at": _instant(feed.changed_at),
        "captured": feed.captured,
        "snapshot_documents": feed.compared,
        "skipped": feed.skipped,
        "gap": {"cause": feed.gap.cause.value, "from": _instant(feed.gap.opened_at)}
        if feed.gap is not None
        else None,
        "last_error": feed.last_error,
        "last_error_at": _instant(feed.last_error_at),
    }
