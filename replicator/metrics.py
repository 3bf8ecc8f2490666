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

# The library's second series for each counter, with its birthday: in every scrape, in no chart.
disable_created_metrics()  # type: ignore[no-untyped-call]

PARK_REASONS: Final = ("too_large", "refused", "routing_key_too_long", "unroutable", "operator")

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW: Final = (*_FAST, 60, 300, 900, 3600, 14400, 86400)


class BatchHistogram(Collector):
    """A histogram that takes many equal observations at once.

    prometheus-client's own takes one at a time. Messages of one batch share their instants, so here
    a batch costs one observation.
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
        """Register every metric, with the series of known labels at zero."""
        self.registry: Final = CollectorRegistry()
        self._states: dict[str, FeedState] = {}
        self._gauge("build_info", "The running version", "version").labels(__version__).set(1)
        self._add_messages()
        self._add_outbox()
        self._add_feeds()
        self._add_connections()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"replicator_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"replicator_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> BatchHistogram:
        histogram = BatchHistogram(f"replicator_{name}", text, buckets)
        self.registry.register(histogram)
        return histogram

    def _add_messages(self) -> None:
        self.entries_confirmed = self._counter(
            "entries_confirmed", "Entries that RabbitMQ confirmed", "table", "op"
        )
        self.publish_outcomes = self._counter(
            "publish_outcomes", "What RabbitMQ answered to published messages", "outcome"
        )
        for outcome in ("confirmed", "nacked", "returned"):
            self.publish_outcomes.labels(outcome)
        self.unroutable = self._counter(
            "unroutable", "Messages that no queue took, by table", "table"
        )
        self.delivery_seconds = self._histogram(
            "delivery_seconds", "From captured to confirmed", _SLOW
        )
        self.confirm_seconds = self._histogram(
            "confirm_seconds", "From published to confirmed", _FAST
        )
        self.in_flight = self._gauge("in_flight", "Messages published and not yet confirmed")

    def _add_outbox(self) -> None:
        self.commit_seconds = self._histogram(
            "commit_seconds", "One transaction of the outbox", _FAST
        )
        self.entries_parked = self._counter(
            "entries_parked", "Entries set aside for the operator", "reason"
        )
        for reason in PARK_REASONS:
            self.entries_parked.labels(reason)
        self.outbox_entries = self._gauge("outbox_entries", "Entries in the outbox", "state")
        for state in ("pending", "parked"):
            self.outbox_entries.labels(state).set(0)
        self.outbox_bytes = self._gauge("outbox_bytes", "Bytes of the bodies in the outbox")
        self.outbox_max_entries = self._gauge(
            "outbox_max_entries",
            "The setting outbox.max_entries: number of entries at which feeds pause",
        )
        self.outbox_max_bytes = self._gauge(
            "outbox_max_bytes", "The setting outbox.max_bytes: bytes of bodies at which feeds pause"
        )
        self.outbox_oldest_age = self._gauge(
            "outbox_oldest_entry_age_seconds",
            "Age of the oldest pending entry; 0 when there is none",
        )

    def _add_feeds(self) -> None:
        self.changes_captured = self._counter(
            "changes_captured", "Changes committed to the outbox", "table", "op", "origin"
        )
        self.feed_state = self._gauge(
            "feed_state", "1 for the state a feed is in", "table", "state"
        )
        self.feed_guarded_deletes = self._gauge(
            "feed_guarded_deletes",
            "Deletes of a comparison that are held back until an operator accepts them",
            "table",
        )
        self.resyncs = self._counter(
            "resyncs", "Snapshots compared again, by what made it necessary", "table", "cause"
        )
        self.gaps = self._counter(
            "gaps", "Times in which versions of documents may have been missed", "table", "cause"
        )
        self.resync_repairs = self._counter(
            "resync_repairs",
            "Documents that a comparison found changed, by operation",
            "table",
            "op",
        )
        self.snapshot_documents = self._counter(
            "snapshot_documents", "Initial values read and compared", "table"
        )
        self.changes_skipped = self._counter(
            "changes_skipped", "Changes that RethinkDB said it dropped", "table"
        )

    def _add_connections(self) -> None:
        self.connected = self._gauge("connected", "Connections that are open", "peer")
        self.reconnects = self._counter(
            "reconnects", "Connections opened again after they were lost", "peer"
        )
        self.broker_blocked = self._gauge(
            "broker_blocked", "1 while RabbitMQ takes no messages (memory or disk alarm)"
        )
        for peer in ("rethinkdb", "rabbitmq"):
            self.connected.labels(peer).set(0)
            self.reconnects.labels(peer)

    def _series_of(self, table: str) -> Iterator[tuple[Counter, tuple[str, ...]]]:
        """Return the counters that are counted by table, with the labels of each series."""
        for op in Op:
            for origin in Origin:
                yield self.changes_captured, (table, op.value, origin.value)
            yield self.entries_confirmed, (table, op.value)
            yield self.resync_repairs, (table, op.value)
        for cause in Cause:
            yield self.resyncs, (table, cause.value)
            yield self.gaps, (table, cause.value)
        for counter in (self.unroutable, self.snapshot_documents, self.changes_skipped):
            yield counter, (table,)

    def register_table(self, table: str) -> None:
        """Make a table's series start at zero, so that a rate over the first event is right."""
        for counter, labels in self._series_of(table):
            counter.labels(*labels)
        self.set_feed_state(table, FeedState.LOST)
        self.feed_guarded_deletes.labels(table)

    def set_feed_state(self, table: str, state: FeedState) -> None:
        """Set the one state that a feed is in; cheap if it has not changed."""
        if self._states.get(table) is state:
            return
        self._states[table] = state
        for each in FeedState:
            self.feed_state.labels(table, each.value).set(1 if each is state else 0)

    def forget_feed_state(self, table: str) -> None:
        """Remove the states of a feed that has ended; its counters stay."""
        self._states.pop(table, None)
        for each in FeedState:
            self.feed_state.remove(table, each.value)
        self.feed_guarded_deletes.remove(table)

    def forget_table(self, table: str) -> None:
        """Remove all series of a table; if counted again, they start at zero."""
        self.forget_feed_state(table)
        for counter, labels in self._series_of(table):
            counter.remove(*labels)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def grouped_instants(instants: Iterable[float]) -> Iterator[tuple[float, int]]:
    """Return each run of equal instants once, with its length."""
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
