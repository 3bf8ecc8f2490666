"""A long outage of the broker, by volume: `python -m tests.faults.outage --entries 1000000`.

Eight hours at 35 changes a second are a million entries. The broker is away while they are
written; then it comes back, and all of them must arrive, in order, with memory bounded.
"""

import argparse
import json
import signal
import sys
import time

from tests.faults.verdict import broken_promises, facts_of, has_converged, query, read_tables
from tests.faults.workload import Load
from tests.faults.world import Lane, Setup, World
from tests.support.wait import wait_until

_BATCH = 500
_KEYS = 50_000
_MAX_RESIDENT_MB = 150
_CAPTURE_SECONDS = 1200
_DRAIN_SECONDS = 1200


def main() -> int:
    # Order matters: servers are ended by their `with`, which a default SIGTERM would skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    entries = parser.parse_args().entries
    setup = Setup(
        Load(keys=_KEYS, value_bytes=300),
        {"OUTBOX__MAX_ENTRIES": str(2 * entries)},
        max_waiting=2 * entries,
    )
    with Lane() as lane, World(lane, setup, seed=1) as world:
        wait_until(world.replicator.is_ready, 60, "readiness")
        wait_until(lambda: query(world, "SELECT count(*) FROM entries") == [(0,)], 120, "the start")
        world.amqp_proxy.refuse()
        world.amqp_proxy.cut()
        _write(world, entries)
        _wait_for_backlog(world, entries)
        outbox_mb = world.replicator.process.outbox_bytes() / 1e6
        world.amqp_proxy.heal()
        back_at = time.monotonic()
        truth = read_tables(world)
        # Order matters: to make the copy of a million deliveries again and again would keep the
        # consumer, a thread of this process, from taking them.
        history = world.recorder.history
        wait_until(lambda: len(history) >= entries, _DRAIN_SECONDS, "a million deliveries")
        wait_until(lambda: has_converged(world, truth), _DRAIN_SECONDS, "the drain")
        drained = time.monotonic() - back_at
        violations = broken_promises(world, facts_of(world, truth))
        peak = max(each.resident_mb for each in world.replicator.samples)
        if peak > _MAX_RESIDENT_MB:
            violations.append(f"G5: {peak:.0f} MB of memory")
        figures = {
            "entries": entries,
            "drained_seconds": round(drained, 1),
            "entries_a_second": round(entries / drained),
            "max_resident_mb": round(peak, 1),
            "outbox_mb": round(outbox_mb, 1),
            "deliveries": len(world.recorder.history),
            "violations": violations[:20],
        }
        print(json.dumps(figures, indent=2))
    return 1 if violations else 0


def _write(world: World, entries: int) -> None:
    """Write each document many times, so that there is an order to keep."""
    with world.connect() as connection:
        for start in range(0, entries, _BATCH):
            keys = range(start % _KEYS, start % _KEYS + _BATCH)
            world.writers.write_all(connection, keys)


def _wait_for_backlog(world: World, entries: int) -> None:
    wait_until(
        lambda: query(world, "SELECT count(*) FROM entries") >= [(entries,)],
        _CAPTURE_SECONDS,
        "the backlog",
    )


if __name__ == "__main__":
    sys.exit(main())
