"""What can be said of a running service: probes, status, metrics.

Reads what the parts publish of themselves; changes nothing, and knows no secret.
"""

import time
from collections.abc import Collection
from typing import Any, Final

from prometheus_client import Counter

from replicator import __version__
from replicator.config import Settings
from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedState
from replicator.domain.instants import shown as instant
from replicator.domain.model import TableName
from replicator.following import Following
from replicator.log import redact_text
from replicator.metrics import Metrics
from replicator.outbox.opening import open_database
from replicator.publisher.publisher import Publisher
from replicator.store.store import Store
from replicator.web.history import RATE_SECONDS, SAMPLE_SECONDS, Flow, History, Sample
from replicator.web.server import Facts, Verdict
from replicator.web.troubles import UNROUTABLE_SECONDS, Signs, find_troubles, hint_for

_STORE_STANDS_STILL_SECONDS: Final = 60.0
# A reader or the publisher may wait a minute between attempts, and as long in one of them.
_LOOP_STANDS_STILL_SECONDS: Final = 180.0
# A server may say much in an error; its beginning tells what is wrong.
_MOST_ERROR_CHARACTERS: Final = 1000


def _shown(error: str | None) -> str | None:
    """Return an error's text as it may be shown: no password, no book."""
    return error and redact_text(error)[:_MOST_ERROR_CHARACTERS]


class Observation:
    """What the HTTP server shows (`replicator.web.server.Observed`); any thread may ask."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: Store,
        publisher: Publisher,
        following: Following,
    ) -> None:
        """Look at these parts; ties the metrics that are read at a scrape to them."""
        self._settings = settings
        self._database = open_database(settings.outbox.url)
        self._metrics = metrics
        self._store = store
        self._publisher = publisher
        self._following = following
        self._history = History()
        self.is_stopping = False
        metrics.connected.labels("rethinkdb").set_function(lambda: float(following.is_connected))
        metrics.outbox_oldest_age.set_function(self._oldest_age)
        metrics.outbox_max_entries.set(settings.outbox.max_entries)
        metrics.outbox_max_bytes.set(settings.outbox.max_bytes)

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
            for reader in self._following.readers
            if not reader.is_waiting_for_store
            and now - reader.progressed_at > _LOOP_STANDS_STILL_SECONDS
        ]
        if (discovery := self._following.discovery) is not None:
            listing = discovery.status
            is_late = now - listing.progressed_at > _LOOP_STANDS_STILL_SECONDS
            if is_late and not listing.is_waiting:
                stuck.append("discovery")
        return Verdict(not stuck, {"live": not stuck, "stuck": stuck})

    def readiness(self) -> Verdict:
        """Return whether every feed is ready and the broker takes messages; else what is not."""
        status = self._store.status
        not_ready: list[dict[str, Any]] = [
            {
                "part": "feed",
                "table": str(feed.name),
                "state": feed.state.value,
                "since": instant(feed.state_since),
                "error": _shown(feed.last_error) if feed.state is FeedState.LOST else None,
            }
            for feed in status.feeds.values()
            if feed.state is not FeedState.READY
        ]
        not_ready += self._not_discovered({feed.name for feed in status.feeds.values()})
        if status.error is not None:
            not_ready.append(
                {
                    "part": "outbox",
                    "since": instant(status.error_at),
                    "error": _shown(status.error),
                }
            )
        if self.is_stopping:
            not_ready.append({"part": "service", "state": "stopping"})
        is_source_ready = not not_ready
        not_ready += self._broker_not_ready()
        for cause in not_ready:
            cause["hint"] = hint_for(str(cause["part"]), cause.get("state"))
        facts: dict[str, object] = {"ready": not not_ready}
        if not_ready:
            facts["not_ready"] = not_ready
            if is_source_ready:
                facts["degraded"] = "buffering"
        return Verdict(not not_ready, facts)

    def _broker_not_ready(self) -> list[dict[str, Any]]:
        broker = self._publisher.status()
        if broker.is_connected and not broker.is_blocked:
            return []
        return [
            {
                "part": "broker",
                "state": "blocked" if broker.is_blocked else "disconnected",
                "since": instant(int(broker.since * 1e6)),
                "error": _shown(broker.error),
            }
        ]

    def _not_discovered(self, with_feed: Collection[TableName]) -> list[dict[str, Any]]:
        """Return what is not known, or not followed yet, of the tables of whole databases."""
        if (discovery := self._following.discovery) is None:
            return []
        listing = discovery.status
        found: list[dict[str, Any]] = [
            {"part": "feed", "table": str(name), "state": FeedState.LOST.value, "since": None}
            for name in sorted(self._following.wanted - set(with_feed))
        ]
        if not listing.is_current:
            found.append(
                {
                    "part": "discovery",
                    "state": "the list of tables is not known",
                    "since": instant(int(listing.since * 1e6)),
                    "error": _shown(listing.error),
                }
            )
        return found

    def facts(self) -> Facts:
        """Return the facts of ``/status`` and ``replicator status --json``."""
        status, broker = self._store.status, self._publisher.status()
        facts: dict[str, Any] = {
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
                "error": _shown(status.error),
            },
            "feeds": [feed_facts(feed) for feed in status.feeds.values()],
            "broker": {
                "connected": broker.is_connected,
                "blocked": broker.is_blocked,
                "since": instant(int(broker.since * 1e6)),
                "in_flight": broker.in_flight,
                "buffered": broker.buffered,
                "refused": broker.refused,
                "exchange": self._settings.rabbitmq.exchange,
                "error": _shown(broker.error),
            },
        }
        facts["troubles"] = [each._asdict() for each in find_troubles(facts, self._signs())]
        return facts

    def _signs(self) -> Signs:
        return Signs(
            stuck=tuple(self.liveness().facts["stuck"]),
            is_disk_nearly_low=self._database.is_nearly_full(),
            unroutable=self._history.unroutable_within(UNROUTABLE_SECONDS),
            on_unroutable=self._settings.rabbitmq.on_unroutable,
            clock_moved_seconds=self._history.clock_moved_seconds(),
        )

    def _oldest_age(self) -> float:
        oldest = self._store.status.totals.oldest_captured_at
        return max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0

    # The last hour.

    def sample(self) -> None:
        """Take a sample for the history if one is due; for one thread, as often as it likes."""
        monotonic = time.monotonic()
        if not self._history.is_due(monotonic):
            return
        totals, broker, metrics = self._store.status.totals, self._publisher.status(), self._metrics
        captured = _by_table(metrics.changes_captured)
        confirmed = _by_table(metrics.entries_confirmed)
        self._history.add(
            Sample(
                at=time.time(),
                monotonic=monotonic,
                pending=totals.pending,
                parked=totals.parked,
                in_flight=broker.in_flight,
                oldest_entry_age_seconds=self._oldest_age(),
                captured=sum(captured.values()),
                confirmed=sum(confirmed.values()),
                unroutable=sum(_by_table(metrics.unroutable).values()),
            ),
            {table: Flow(n, confirmed.get(table, 0.0)) for table, n in captured.items()},
        )

    def history(self) -> Facts:
        """Return the facts of ``/history``."""
        samples, rates = self._history.samples(), self._history.rates()
        return {
            "interval_seconds": SAMPLE_SECONDS,
            "at": [instant(int(each.at * 1e6)) for each in samples],
            "age_seconds": [round(samples[-1].monotonic - each.monotonic, 1) for each in samples],
            "pending": [int(each.pending) for each in samples],
            "parked": [int(each.parked) for each in samples],
            "in_flight": [int(each.in_flight) for each in samples],
            "oldest_entry_age_seconds": [
                round(each.oldest_entry_age_seconds, 3) for each in samples
            ],
            "captured": [int(each.captured) for each in samples],
            "confirmed": [int(each.confirmed) for each in samples],
            "unroutable": [int(each.unroutable) for each in samples],
            "rates": {
                "seconds": RATE_SECONDS,
                "tables": {
                    table: {name: round(value, 3) for name, value in rate._asdict().items()}
                    for table, rate in rates.items()
                },
            },
        }


def _by_table(counter: Counter) -> dict[str, float]:
    """Add up a counter's series by table."""
    found: dict[str, float] = {}
    for family in counter.collect():
        for series in family.samples:
            table = series.labels["table"]
            found[table] = found.get(table, 0.0) + series.value
    return found


def feed_facts(feed: Feed) -> dict[str, Any]:
    """Return what ``/status`` says of a feed."""
    return {
        "table": str(feed.name),
        "state": feed.state.value,
        "since": instant(feed.state_since),
        "ready_at": instant(feed.ready_at),
        "changed_at": instant(feed.changed_at),
        "captured": feed.captured,
        "snapshot_documents": feed.compared,
        "skipped": feed.skipped,
        "gap": {"cause": feed.open_gap.cause.value, "from": instant(feed.open_gap.opened_at)}
        if feed.open_gap is not None
        else None,
        "last_error": _shown(feed.last_error),
        "last_error_at": instant(feed.last_error_at),
    }
