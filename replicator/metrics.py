"""The Prometheus metrics of the contract; counted per batch, never per message.

A registry of its own per `Metrics`, so that tests do not share counters.
"""

import bisect
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from replicator import __version__
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Cause, Op, Origin

# A second series for each counter, with its birthday: nobody charts it, every scrape carries it.
disable_created_metrics()  # type: ignore[no-untyped-call]

PARK_REASONS: Final = ("too_large", "refused", "routing_key_too_long", "unroutable", "operator")

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW: Final = (*_FAST, 60, 300, 900, 3600, 14400, 86400)


class BatchHistogram(Collector):
    """A histogram that takes many equal observations at once.

    prometheus-client's own takes one at a time; messages of one batch share their instants, so
    a batch costs one observation here.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        """Name the histogram; ``buckets`` are upper bounds in seconds, growing."""
        self._name = name
        self._documentation = documentation
        self._bounds = list(buckets)
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float, count: int = 1) -> None:
        """Add ``count`` observations of the same value."""
        bucket = bisect.bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[bucket] += count
            self._sum += seconds * count

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the histogram in Prometheus' cumulative form."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip([*map(float, self._bounds), float("inf")], counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, total)
        yield family


class Metrics:
    """Every metric of the contract."""

    def __init__(self) -> None:
        """Register everything, with the series of known labels at zero."""
        self.registry: Final = CollectorRegistry()
        registry = self.registry
        self.build_info = Gauge(
            "replicator_build_info", "The running version", ["version"], registry=registry
        )
        self.build_info.labels(__version__).set(1)
        self.changes_captured = Counter(
            "replicator_changes_captured",
            "Changes committed to the outbox",
            ["table", "op", "origin"],
            registry=registry,
        )
        self.entries_confirmed = Counter(
            "replicator_entries_confirmed",
            "Entries that RabbitMQ confirmed",
            ["table", "op"],
            registry=registry,
        )
        self.publish_outcomes = Counter(
            "replicator_publish_outcomes",
            "What RabbitMQ answered to published messages",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("confirmed", "nacked", "returned"):
            self.publish_outcomes.labels(outcome)
        self.unroutable = Counter(
            "replicator_unroutable",
            "Messages that no queue took, by table",
            ["table"],
            registry=registry,
        )
        self.entries_parked = Counter(
            "replicator_entries_parked",
            "Entries set aside for the operator",
            ["reason"],
            registry=registry,
        )
        for reason in PARK_REASONS:
            self.entries_parked.labels(reason)
        self.delivery_seconds = BatchHistogram(
            "replicator_delivery_seconds", "From captured to confirmed", _SLOW
        )
        self.confirm_seconds = BatchHistogram(
            "replicator_confirm_seconds", "From published to confirmed", _FAST
        )
        self.commit_seconds = BatchHistogram(
            "replicator_commit_seconds", "One transaction of the outbox", _FAST
        )
        for histogram in (self.delivery_seconds, self.confirm_seconds, self.commit_seconds):
            registry.register(histogram)
        self.in_flight = Gauge(
            "replicator_in_flight", "Messages published and not yet confirmed", registry=registry
        )
        self.outbox_entries = Gauge(
            "replicator_outbox_entries", "Entries in the outbox", ["state"], registry=registry
        )
        for state in ("pending", "parked"):
            self.outbox_entries.labels(state).set(0)
        self.outbox_bytes = Gauge(
            "replicator_outbox_bytes", "Bytes of the bodies in the outbox", registry=registry
        )
        self.outbox_max_entries = Gauge(
            "replicator_outbox_max_entries",
            "The setting outbox.max_entries: at so many entries, pending and parked, feeds pause",
            registry=registry,
        )
        self.outbox_max_bytes = Gauge(
            "replicator_outbox_max_bytes",
            "The setting outbox.max_bytes: at so many bytes of bodies feeds pause",
            registry=registry,
        )
        self.outbox_oldest_age = Gauge(
            "replicator_outbox_oldest_entry_age_seconds",
            "Age of the oldest pending entry; 0 when there is none",
            registry=registry,
        )
        self._states: dict[str, FeedState] = {}
        self.feed_state = Gauge(
            "replicator_feed_state",
            "1 for the state a feed is in",
            ["table", "state"],
            registry=registry,
        )
        self.resyncs = Counter(
            "replicator_resyncs",
            "Snapshots compared again, by what made it necessary",
            ["table", "cause"],
            registry=registry,
        )
        self.gaps = Counter(
            "replicator_gaps",
            "Times in which versions of documents may have been missed",
            ["table", "cause"],
            registry=registry,
        )
        self.resync_repairs = Counter(
            "replicator_resync_repairs",
            "Documents that a comparison found changed, by operation",
            ["table", "op"],
            registry=registry,
        )
        self.snapshot_documents = Counter(
            "replicator_snapshot_documents",
            "Initial values read and compared",
            ["table"],
            registry=registry,
        )
        self.changes_skipped = Counter(
            "replicator_changes_skipped",
            "Changes that RethinkDB said it dropped",
            ["table"],
            registry=registry,
        )
        self.connected = Gauge(
            "replicator_connected", "Connections that are open", ["peer"], registry=registry
        )
        self.reconnects = Counter(
            "replicator_reconnects",
            "Connections opened again after they were lost",
            ["peer"],
            registry=registry,
        )
        self.broker_blocked = Gauge(
            "replicator_broker_blocked",
            "1 while RabbitMQ takes no messages (memory or disk alarm)",
            registry=registry,
        )
        for peer in ("rethinkdb", "rabbitmq"):
            self.connected.labels(peer).set(0)
            self.reconnects.labels(peer)

    def register_table(self, table: str) -> None:
        """Make a table's series exist at zero, so that a rate over the first event is right."""
        for op in Op:
            for origin in Origin:
                self.changes_captured.labels(table, op.value, origin.value)
            self.entries_confirmed.labels(table, op.value)
            self.resync_repairs.labels(table, op.value)
        for cause in Cause:
            self.resyncs.labels(table, cause.value)
            self.gaps.labels(table, cause.value)
        self.unroutable.labels(table)
        self.snapshot_documents.labels(table)
        self.changes_skipped.labels(table)
        self.set_feed_state(table, FeedState.LOST)

    def set_feed_state(self, table: str, state: FeedState) -> None:
        """Set the one state that a feed is in; cheap when it is the same as before."""
        if self._states.get(table) is state:
            return
        self._states[table] = state
        for each in FeedState:
            self.feed_state.labels(table, each.value).set(1 if each is state else 0)

    def forget_feed_state(self, table: str) -> None:
        """Take the states of a feed away that is no more; what was counted stays."""
        self._states.pop(table, None)
        for each in FeedState:
            self.feed_state.remove(table, each.value)

    def forget_table(self, table: str) -> None:
        """Take all series of a table away; counted again, they start at zero."""
        self.forget_feed_state(table)
        for op in Op:
            for origin in Origin:
                self.changes_captured.remove(table, op.value, origin.value)
            self.entries_confirmed.remove(table, op.value)
            self.resync_repairs.remove(table, op.value)
        for cause in Cause:
            self.resyncs.remove(table, cause.value)
            self.gaps.remove(table, cause.value)
        for counter in (self.unroutable, self.snapshot_documents, self.changes_skipped):
            counter.remove(table)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def grouped_instants(instants: Iterable[float]) -> Iterator[tuple[float, int]]:
    """Return equal neighbours once, with how many they were."""
    last: float | None = None
    count = 0
    for instant in instants:
        if instant == last:
            count += 1
            continue
        if last is not None:
            yield last, count
        last, count = instant, 1
    if last is not None:
        yield last, count
