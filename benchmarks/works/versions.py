"""Versions: this one and another, in turn in one run, so that the machine is the same for both.

``BENCH_BEFORE`` names the other version's `replicator` program. A run that names no work leaves
these out, because they need that program.
"""

from functools import partial

from benchmarks import programs
from benchmarks.figures import Goal
from benchmarks.work import Work
from benchmarks.works import drain, live

_KINDS = (programs.REPLICATOR, programs.REPLICATOR_BEFORE)
_BEFORE = programs.REPLICATOR_BEFORE.name
_RATE = 1_000
_SECONDS = 20.0


LIVE = Work(
    "live-versions",
    "This version and another, at 1,000 changes a second",
    partial(live.measure, kinds=_KINDS, rates=(_RATE,), seconds=_SECONDS),
    ("p50_ms", "p99_ms", "cpu_seconds_per_1000", "missing"),
    peer=_BEFORE,
    goals=(
        Goal("p99, to the version before", "p99_ms", None, 1.5, _BEFORE, f"{_RATE:,}/s"),
        Goal(
            "CPU time, to the version before",
            "cpu_seconds_per_1000",
            None,
            1.25,
            _BEFORE,
            f"{_RATE:,}/s",
        ),
    ),
    minutes=3,
)
DRAIN = Work(
    "drain-versions",
    "This version and another, draining 80,000 changes of 400 B into a classic queue",
    partial(drain.measure, kinds=_KINDS, sizes=(drain.SIZE,)),
    ("per_second", "cpu_seconds_per_1000", "peak_memory_mb"),
    peer=_BEFORE,
    goals=(
        Goal("rate, to the version before", "per_second", 0.9, None, _BEFORE, f"{drain.SIZE} B"),
        Goal(
            "CPU time, to the version before",
            "cpu_seconds_per_1000",
            None,
            1.25,
            _BEFORE,
            f"{drain.SIZE} B",
        ),
    ),
    minutes=2,
)
