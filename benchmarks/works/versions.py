"""Versions: this one and another, in turn in one run, so that the machine is the same for both.

``BENCH_BEFORE`` names the other version's `replicator` program. A run that names no work leaves
these out, because they need that program.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import programs
from benchmarks.figures import Goal, Measurement, percentile
from benchmarks.place import Place
from benchmarks.processes import usage
from benchmarks.programs import Kind, Program
from benchmarks.work import Run, Work
from benchmarks.works import drain
from benchmarks.writer import write_at_rate

_KINDS = (programs.REPLICATOR, programs.REPLICATOR_BEFORE)
_BEFORE = programs.REPLICATOR_BEFORE.name
_RATE = 1_000
_SECONDS = 20.0
_WARM_UP_SECONDS = 3.0
_DEADLINE_SECONDS = 60.0
_CONSUMER = Path(__file__).parent.parent / "consumer.py"


def measure(run: Run, kinds: Sequence[Kind] = _KINDS) -> Iterator[Measurement]:
    """Let each version follow a writer for a while, in every round."""
    for number, (kind,) in run.in_rounds([(kind,) for kind in programs.runnable(kinds)]):
        figures = _live(run, kind)
        run.say(f"round {number}: {kind.name}: p99 {figures['p99_ms']:.2f} ms")
        yield Measurement(f"{_RATE:,}/s", kind.name, number, figures)


def _cpu_seconds(program: Program) -> float:
    used = usage(program.pid)
    assert used is not None
    return used.cpu_seconds


def _live(run: Run, kind: Kind) -> dict[str, float]:
    seconds = max(1.0, _SECONDS * run.scale)
    with Place(run.servers) as place:
        file = run.directory / f"{place.name}.json"
        count = int(_RATE * _WARM_UP_SECONDS) + int(_RATE * seconds)
        consumer = Program(
            [sys.executable, str(_CONSUMER), place.url, place.name, str(count), str(file)],
            os.environ,
        )
        feeder = programs.program(kind, place, run.directory, work=(0, 0))
        with feeder, consumer:
            warm = write_at_rate(place, _RATE, _WARM_UP_SECONDS)
            began_us = time.monotonic_ns() // 1000
            before = _cpu_seconds(feeder)
            written = write_at_rate(place, _RATE, seconds, start=warm)
            used = _cpu_seconds(feeder) - before
            with contextlib.suppress(TimeoutError):
                consumer.wait_for("done", _DEADLINE_SECONDS)
            feeder.require_running()
        latencies = json.loads(file.read_text())
    measured = [latency / 1000 for sent, latency in latencies if sent >= began_us]
    return {
        "p50_ms": percentile(measured, 50),
        "p99_ms": percentile(measured, 99),
        "cpu_seconds_per_1000": used * 1000 / written,
        "missing": float(written - len(measured)),
    }


LIVE = Work(
    "live-versions",
    "This version and another, at 1,000 changes a second",
    measure,
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
