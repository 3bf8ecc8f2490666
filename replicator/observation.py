"""What can be said of a running service: probes, status, metrics.

Reads what the parts publish of themselves; changes nothing, and knows no secret.
"""

import collections
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import Counter

from replicator import __version__
from replicator.config import Settings
from replicator.domain.feed_state import FeedState
from replicator.domain.instants import shown as instant
from replicator.following import Following
from replicator.metrics import Metrics
from replicator.outbox.opening import open_database
from replicator.publisher.publisher import Publisher
from replicator.store.store import Store
from replicator.web.facts import Facts, feed_facts, oldest_age_seconds, outbox_facts, shown
from replicator.web.history import RATE_SECONDS, SAMPLE_SECONDS, Flow, History, Sample
from replicator.web.troubles import UNROUTABLE_SECONDS, Signs, find_troubles, hint_for

_STORE_STANDS_STILL_SECONDS: Final = 60.0
# A reader or the publisher may wait a minute between attempts, and as long in one of them.
_LOOP_STANDS_STILL_SECONDS: Final = 180.0


class Observation:
    """What the HTTP server shows (`replicator.web.server.Observed`), on the server's thread."""

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
        metrics.outbox_oldest_age.set_function(lambda: oldest_age_seconds(store.status.totals))
        metrics.outbox_max_entries.set(settings.outbox.max_entries)
        metrics.outbox_max_bytes.set(settings.outbox.max_bytes)

    def render_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self._metrics.render()

    def liveness(self) -> Facts:
        """Return whether every loop makes progress; else which do not."""
        stuck = list(self._stuck())
        return {"live": not stuck, "stuck": stuck}

    def _stuck(self) -> Iterator[str]:
        now = time.monotonic()
        long_ago = now - _LOOP_STANDS_STILL_SECONDS
        if self._store.status.stepped_at < now - _STORE_STANDS_STILL_SECONDS:
            yield "store"
        if self._publisher.status().turned_at < long_ago:
            yield "publisher"
        for reader in self._following.readers:
            if not reader.is_waiting_for_store and reader.progressed_at < long_ago:
                yield f"reader {reader.name}"
        if (discovery := self._following.discovery) is not None:
            listing = discovery.status
            if not listing.is_waiting and listing.progressed_at < long_ago:
                yield "discovery"

    def readiness(self) -> Facts:
        """Return whether every feed is ready and the broker takes messages; else what is not."""
        causes = list(self._causes())
        facts: Facts = {"ready": not causes}
        if causes:
            facts["not_ready"] = causes
            if all(cause["part"] == "broker" for cause in causes):
                facts["degraded"] = "buffering"
        return facts

    def _causes(self) -> Iterator[Facts]:
        status, broker = self._store.status, self._publisher.status()
        for feed in status.feeds.values():
            if feed.state is not FeedState.READY:
                error = feed.last_error if feed.state is FeedState.LOST else None
                since = instant(feed.state_since)
                yield _cause("feed", feed.state, since, error, table=str(feed.name))
        yield from self._undiscovered()
        if status.error is not None:
            yield _cause("outbox", "unwritable", instant(status.error_at), status.error)
        if self.is_stopping:
            yield _cause("service", "stopping")
        if broker.is_blocked or not broker.is_connected:
            state = "blocked" if broker.is_blocked else "disconnected"
            yield _cause("broker", state, _moment(broker.since), broker.error)

    def _undiscovered(self) -> Iterator[Facts]:
        """Say what is not known, or not followed yet, of the tables of whole databases."""
        if (discovery := self._following.discovery) is None:
            return
        with_feed = {feed.name for feed in self._store.status.feeds.values()}
        for name in sorted(self._following.wanted - with_feed):
            yield _cause("feed", FeedState.LOST, table=str(name))
        listing = discovery.status
        if not listing.is_current:
            state = "the list of tables is not known"
            yield _cause("discovery", state, _moment(listing.since), listing.error)

    def facts(self) -> Facts:
        """Return the facts of ``/status`` and ``replicator status --json``."""
        status, broker = self._store.status, self._publisher.status()
        facts: Facts = {
            "version": __version__,
            "running": True,
            **self.readiness(),
            "outbox": outbox_facts(
                self._settings.outbox,
                status.outbox_id,
                status.totals,
                is_full=status.is_full,
                error=status.error,
            ),
            "feeds": [feed_facts(feed) for feed in status.feeds.values()],
            "broker": {
                "connected": broker.is_connected,
                "blocked": broker.is_blocked,
                "since": _moment(broker.since),
                "in_flight": broker.in_flight,
                "buffered": broker.buffered,
                "refused": broker.refused,
                "confirmed": _by_table(self._metrics.entries_confirmed).total(),
                "unroutable": +_by_table(self._metrics.unroutable),  # without zeros
                "exchange": self._settings.rabbitmq.exchange,
                "error": shown(broker.error),
            },
        }
        signs = Signs(
            stuck=tuple(self._stuck()),
            is_disk_nearly_low=self._database.is_nearly_full(),
            unroutable=self._history.unroutable_within(UNROUTABLE_SECONDS),
            on_unroutable=self._settings.rabbitmq.on_unroutable,
            clock_moved_seconds=self._history.clock_moved_seconds(),
        )
        facts["troubles"] = [each._asdict() for each in find_troubles(facts, signs)]
        return facts

    # The last hour.

    def sample(self) -> None:
        """Take a sample for the history if one is due; asked as often as one likes."""
        monotonic = time.monotonic()
        if not self._history.is_due(monotonic):
            return
        totals, metrics = self._store.status.totals, self._metrics
        captured = _by_table(metrics.changes_captured)
        confirmed = _by_table(metrics.entries_confirmed)
        self._history.add(
            Sample(
                at=time.time(),
                monotonic=monotonic,
                pending=totals.pending,
                parked=totals.parked,
                in_flight=self._publisher.status().in_flight,
                oldest_entry_age_seconds=round(oldest_age_seconds(totals), 3),
                captured=captured.total(),
                confirmed=confirmed.total(),
                unroutable=_by_table(metrics.unroutable).total(),
            ),
            {table: Flow(n, confirmed[table]) for table, n in captured.items()},
        )

    def history(self) -> Facts:
        """Return the facts of ``/history``."""
        samples = self._history.samples()
        tables = {
            table: {f"{name}_per_second": round(n, 3) for name, n in rate._asdict().items()}
            for table, rate in self._history.rates().items()
        }
        return {
            "interval_seconds": SAMPLE_SECONDS,
            "at": [_moment(each.at) for each in samples],
            "age_seconds": [round(samples[-1].monotonic - each.monotonic, 1) for each in samples],
            **{name: [getattr(each, name) for each in samples] for name in Sample._fields[2:]},
            "rates": {"seconds": RATE_SECONDS, "tables": tables},
        }


def _moment(seconds: float) -> str | None:
    return instant(int(seconds * 1e6))


def _cause(
    part: str, state: str, since: str | None = None, error: str | None = None, **more: str
) -> Facts:
    """Return why the service is not ready, as ``/readyz`` says it."""
    cause = {"part": part, "state": state, **more, "since": since, "error": shown(error)}
    return cause | {"hint": hint_for(part, state)}


def _by_table(counter: Counter) -> collections.Counter[str]:
    """Add up a counter's series by table."""
    found = collections.Counter[str]()
    for family in counter.collect():
        for series in family.samples:
            found[series.labels["table"]] += int(series.value)
    return found
