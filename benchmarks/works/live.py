"""Live: how long a change is on its way, from just before its write to the consumer.

One process writes at 100, 1,000 and 5,000 documents a second (those of 2 ms in one query), with
the machine's monotonic clock in each document; a consumer subtracts that from its own. Two
seconds of warming up are left out. Percentiles are over all of the measured interval.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import programs
from benchmarks.figures import Goal, Measurement, percentile
from benchmarks.place import Place
from benchmarks.processes import usage
from benchmarks.programs import Kind, Program
from benchmarks.work import Run, Work
from benchmarks.writer import write_at_rate

RATES = (100, 1_000, 5_000)
_SECONDS = 10.0
_WARM_UP_SECONDS = 2.0
_DEADLINE_SECONDS = 60.0
_KINDS = (programs.REPLICATOR, programs.TUTORIAL, programs.JAVASCRIPT_CONFIRM)
_CONSUMER = Path(__file__).parent.parent / "consumer.py"


def measure(
    run: Run,
    kinds: Sequence[Kind] = _KINDS,
    rates: Sequence[int] = RATES,
    seconds: float = _SECONDS,
) -> Iterator[Measurement]:
    """Let each program follow a writer for ``seconds`` at each rate, in every round."""
    kinds = programs.runnable(kinds)
    cases = [(kind, rate) for rate in rates for kind in kinds]
    for number, (kind, rate) in run.in_rounds(cases):
        figures = _live(run, kind, rate, seconds)
        run.say(
            f"round {number}: {kind.name}, {rate:,}/s: p50 {figures['p50_ms']:.2f} ms, "
            f"p99 {figures['p99_ms']:.2f} ms"
        )
        yield Measurement(f"{rate:,}/s", kind.name, number, figures)


def _cpu_seconds(program: Program) -> float:
    used = usage(program.pid)
    assert used is not None
    return used.cpu_seconds


def _live(run: Run, kind: Kind, rate: int, seconds: float) -> dict[str, float]:
    seconds = max(1.0, seconds * run.scale)
    with Place(run.servers, is_durable=kind.is_durable) as place:
        file = run.directory / f"{place.name}.json"
        warm_up = min(_WARM_UP_SECONDS, seconds)
        count = int(rate * warm_up) + int(rate * seconds)
        consumer = Program(
            [sys.executable, str(_CONSUMER), place.url, place.name, str(count), str(file)],
            os.environ,
        )
        feeder = programs.program(kind, place, run.directory, work=(0, 0))
        with feeder, consumer:
            warm = write_at_rate(place, rate, warm_up)
            began_us = time.monotonic_ns() // 1000
            cpu_before = _cpu_seconds(feeder)
            written = write_at_rate(place, rate, seconds, start=warm)
            took = (time.monotonic_ns() // 1000 - began_us) / 1e6
            cpu_seconds = _cpu_seconds(feeder) - cpu_before
            # What did not arrive by then is missing, and reported as such.
            with contextlib.suppress(TimeoutError):
                consumer.wait_for("done", _DEADLINE_SECONDS)
            feeder.require_running()
        latencies = json.loads(file.read_text())
    measured = [latency / 1000 for sent, latency in latencies if sent >= began_us]
    return {
        "p50_ms": percentile(measured, 50),
        "p95_ms": percentile(measured, 95),
        "p99_ms": percentile(measured, 99),
        "p999_ms": percentile(measured, 99.9),
        "cpu_seconds_per_1000": cpu_seconds * 1000 / written,
        "written_per_second": written / took,
        "missing": float(written - len(measured)),
    }


LIVE = Work(
    "live",
    "Latency from a write to the consumer",
    measure,
    ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "written_per_second"),
    goals=(
        Goal("p50, to the tutorial's", "p50_ms", None, 1.5, "tutorial", "1,000/s"),
        Goal("p99, to the tutorial's", "p99_ms", None, 2.0, "tutorial", "1,000/s"),
    ),
    minutes=6.5,
)
