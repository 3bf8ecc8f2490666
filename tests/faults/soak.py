"""An hour under load with a fault every 20 seconds: `python -m tests.faults.soak --minutes 60`.

The process lives through all of it: memory, threads and file descriptors must not grow. At the
end everything that `checker` asks for must hold. The figures go to standard output as JSON.
"""

import argparse
import json
import random
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Sequence

from tests.faults.nemeses import Nemesis
from tests.faults.plan import possible
from tests.faults.run import act_once
from tests.faults.supervised import Sample
from tests.faults.verdict import broken_promises, facts_of, has_converged, read_tables
from tests.faults.workload import Load
from tests.faults.world import Lane, Setup, World
from tests.support.wait import wait_until

# A process that is ended does not get old. So what ends it is left out, and what needs a clock or a
# volume of the run's own: see `plan.possible` for the rest.
_ENDING = {"kill replicator", "terminate replicator"}
_NEEDS = {"real rethinkdb"}
_MAX_GROWTH = 1.1
_MAX_GROWTH_MB = 5.0


def main() -> int:
    # Order matters: servers are ended by their `with`, which a default SIGTERM would skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=20, help="seconds from fault to fault")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    arguments = parser.parse_args()
    load = Load(tables=("t1", "t2"), keys=2000, writers=3, pause_seconds=0.02, max_in_batch=30)
    with Lane() as lane, World(lane, Setup(load), arguments.seed) as world:
        wait_until(world.replicator.is_ready, 60, "readiness")
        with world.writers:
            faults = _soak(world, arguments.minutes * 60, arguments.every, arguments.seed)
            world.heal()
        healed_at = time.monotonic()
        truth = read_tables(world)
        wait_until(lambda: has_converged(world, truth), 180, "convergence")
        converged = time.monotonic() - healed_at
        violations = broken_promises(world, facts_of(world, truth))
        samples = world.replicator.samples
        violations += _growth(samples)
        print(
            json.dumps(
                {
                    "seed": arguments.seed,
                    "minutes": arguments.minutes,
                    "faults": faults,
                    "changes": world.writers.count,
                    "deliveries": len(world.recorder.history),
                    "converged_seconds": round(converged, 1),
                    "starts": world.replicator.starts,
                    "tenths": _tenths(samples),
                    "violations": violations[:20],
                },
                indent=2,
            )
        )
    return 1 if violations else 0


def _soak(world: World, seconds: float, every: float, seed: int) -> int:
    chance = random.Random(seed)
    nemeses = _that_leave_it_alive(world)
    began = time.monotonic()
    faults = 0
    while (elapsed := time.monotonic() - began) < seconds:
        (nemesis,) = chance.choices(nemeses, [each.weight for each in nemeses])
        faults += act_once(nemesis, world, chance)
        print(f"{elapsed:.0f} s: {nemesis.name}", file=sys.stderr, flush=True)
        time.sleep(max(0.0, every - (time.monotonic() - began - elapsed)))
    return faults


def _that_leave_it_alive(world: World) -> list[Nemesis]:
    return [
        each
        for each in possible(world.lane.abilities())
        if each.name not in _ENDING and not each.exits and each.needs <= _NEEDS
    ]


def _tenths(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Return medians of each tenth of the time."""
    size = max(1, len(samples) // 10)
    parts = [samples[start : start + size] for start in range(0, size * 10, size)]
    return [
        {
            "resident_mb": round(statistics.median(each.resident_mb for each in part), 1),
            "threads": statistics.median(each.threads for each in part),
            "descriptors": statistics.median(each.descriptors for each in part),
            "outbox_mb": round(statistics.median(each.outbox_mb for each in part), 2),
        }
        for part in parts
        if part
    ]


def _growth(samples: Sequence[Sample]) -> list[str]:
    """Compare the last tenth with the second: the first still warms up."""
    tenths = _tenths(samples)
    if len(tenths) < 10:
        return ["too few samples to say that nothing grows"]
    early, late = tenths[1], tenths[-1]
    allowed = {
        "resident_mb": max(
            early["resident_mb"] * _MAX_GROWTH, early["resident_mb"] + _MAX_GROWTH_MB
        ),
        "threads": early["threads"],
        "descriptors": early["descriptors"],
    }
    return [
        f"{what} grew from {early[what]} to {late[what]}"
        for what, limit in allowed.items()
        if late[what] > limit
    ]


if __name__ == "__main__":
    sys.exit(main())
