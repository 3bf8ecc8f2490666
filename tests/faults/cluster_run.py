"""The whole service on a cluster, under the campaign's load, before the campaign's witnesses."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.checker import Facts
from tests.faults.recorder import Delivery, Recorder
from tests.faults.supervised import Supervised
from tests.faults.verdict import (
    broken_promises,
    facts_of,
    has_converged,
    read_tables,
    seen_by_consumer,
)
from tests.faults.workload import Load, Server, Writers
from tests.support.wait import wait_until

TABLE = "mytable"
# A hung member is missed by a heartbeat; the default is made for slow links.
_HEARTBEAT_SECONDS = 4
_CONVERGE_SECONDS = 120
_SOON_SECONDS = 90


class Measured(NamedTuple):
    """How an outage looked to the consumer."""

    deliveries: int
    duplicates: float  # share of all deliveries
    longest_pause_seconds: float
    converged_seconds: float  # since all was healthy and the writers had stopped

    def __str__(self) -> str:
        return (
            f"{self.deliveries} deliveries, {self.duplicates:.2%} of them repeated,"
            f" longest pause {self.longest_pause_seconds:.1f} s,"
            f" converged {self.converged_seconds:.1f} s after healing"
        )


@dataclass
class ClusterRun:
    """A `Scene`: the service and those around it, under load."""

    server: Server
    name: str
    replicator: Supervised
    recorder: Recorder
    writers: Writers
    tables: Sequence[str] = (TABLE,)
    is_clock_true: bool = True
    faults: list[tuple[float, str]] = field(default_factory=list)
    writing_from: float = field(default_factory=time.time)

    def note(self, fault: str) -> None:
        """Remember when something was done to a server, for the story of a document."""
        self.faults.append((time.time(), f"-- {fault}"))

    def wait_for_deliveries(self, more: int = 200) -> None:
        self.recorder.wait_for_more(more, _SOON_SECONDS)

    def pending(self) -> int:
        """Return how many entries the outbox has to publish."""
        return int(self.replicator.process.status()["outbox"]["pending"])

    def metric(self, name: str, **labels: str) -> float:
        return self.replicator.process.metric(name, **labels)

    def of_document(self, key: Any) -> list[Delivery]:
        """Return what the consumer was told of a document, in order."""
        wanted = json.dumps(key)
        return [each for each in self.recorder.snapshot() if each.key == wanted]

    def broker(self) -> str:
        """Return the ``host:port`` that is published to, or was last."""
        return self._hosts("publishing")[-1]

    def source(self) -> str:
        """Return the ``host:port`` that the feed comes from, or did last."""
        return self._hosts("feed is open, comparing its snapshot")[-1]

    def _hosts(self, event: str) -> list[str]:
        events = self.replicator.process.log_events()
        return [str(each["host"]) for each in events if each["event"] == event]

    def judge(self) -> tuple[Measured, Facts]:
        """Stop writing, wait until all is well, and let the campaign's checker look at it."""
        self.writers.stop()
        healthy_at = time.monotonic()
        truth = read_tables(self)
        wait_until(lambda: has_converged(self, truth), _CONVERGE_SECONDS, "convergence")
        converged = time.monotonic() - healthy_at
        facts = facts_of(self, truth)
        broken = broken_promises(self, facts, self.faults)
        assert not broken, "\n".join(broken)
        seen = seen_by_consumer(facts.history, self.writing_from)
        repeated = (seen.duplicates + seen.redelivered) / seen.deliveries
        return Measured(seen.deliveries, repeated, seen.longest_pause_seconds, converged), facts


@contextlib.contextmanager
def under_load(
    directory: Path,
    settings: Mapping[str, str],
    server: Server,
    database: str,
    queue: tuple[Sequence[str], Mapping[str, Any]],
) -> Iterator[ClusterRun]:
    """Yield the service when it is ready and the consumer has heard of what is written.

    Args:
        directory: for the outbox.
        settings: where the servers are.
        server: which the writers write to.
        database: has a table ``mytable``.
        queue: the URLs of the consumer, and the arguments of its queue.
    """
    load = Load(tables=(TABLE,), keys=150, max_in_batch=20)
    writers = Writers(server, database, load, seed=31)
    writers.fill()
    settings = {
        "TABLES": f"{database}.{TABLE}",
        "RABBITMQ__HEARTBEAT": f"{_HEARTBEAT_SECONDS}s",
        "RABBITMQ__ON_UNROUTABLE": "hold",
        **settings,
    }
    with (
        Recorder(*queue, _HEARTBEAT_SECONDS) as recorder,
        Supervised(directory, settings, {}) as replicator,
    ):
        wait_until(lambda: replicator.is_ready() or replicator.exits, _SOON_SECONDS, "readiness")
        assert not replicator.exits
        run = ClusterRun(server, database, replicator, recorder, writers)
        with writers:
            run.wait_for_deliveries()
            yield run
