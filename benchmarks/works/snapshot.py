"""Snapshot: a table of a million documents, published first, then compared after a restart.

Each round starts a replicator with a new outbox (first publication: from the start of the process
until all messages are in the queue), stops it, and starts it again (restart: nothing may be
published, no row of the index written). ``drain-only-…`` reads the same snapshot and does nothing
with it. The time of a restart begins when the feed is open: for the replicator, as its outbox
says, until it is ready; for the readers from ``ready`` to ``done``. The time including the start
of the process is given beside it. Both begin once the servers are idle: RabbitMQ goes on working
for a while after it got a million messages.
"""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import programs
from benchmarks.figures import Goal, Measurement
from benchmarks.place import Place
from benchmarks.processes import usage, wait_until_idle
from benchmarks.programs import Replicator
from benchmarks.work import Run, Work

COUNT = 1_000_000
SIZE = 400
_DEADLINE_SECONDS = 900.0
_IDLE_DEADLINE_SECONDS = 60.0
_FIRST, _RESTART = "1 first publication", "2 restart"
_READERS = (programs.DRAIN_ONLY_RAW, programs.DRAIN_ONLY_DRIVER)
_KINDS = (programs.REPLICATOR, *_READERS)


def measure(run: Run) -> Iterator[Measurement]:
    count = run.scaled(COUNT)
    with Place(run.servers) as place:
        started = time.monotonic()
        place.insert(count, SIZE)
        run.say(f"{count:,} documents inserted in {time.monotonic() - started:.0f} s")
        for number, kind in run.in_rounds(_KINDS):
            if kind is not programs.REPLICATOR:
                figures = _read(run, kind, place, count)
                run.say(f"round {number}: {kind.name}: {figures['per_second']:,.0f}/s")
                yield Measurement(_RESTART, kind.name, number, figures)
                continue
            outbox = run.directory / f"round{number}"
            outbox.mkdir()
            first, again = publish_and_restart(place, outbox, count)
            run.say(
                f"round {number}: replicator: published {first['per_second']:,.0f}/s, "
                f"compared {again['per_second']:,.0f}/s"
            )
            yield Measurement(_FIRST, kind.name, number, first)
            yield Measurement(_RESTART, kind.name, number, again)


def publish_and_restart(
    place: Place, directory: Path, count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Publish a whole table with a new outbox, then compare it after a restart."""
    place.purge()
    replicator = Replicator(place, directory)
    started = time.monotonic()
    with replicator:
        place.wait_for_depth(count, _DEADLINE_SECONDS, replicator.require_running)
        first = {"per_second": count / (time.monotonic() - started), **_costs(replicator, count)}
        # While entries are pending, stopping would leave work for the restart.
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while replicator.pending() and time.monotonic() < deadline:
            time.sleep(0.05)
    first["outbox_bytes_per_document"] = replicator.outbox.stat().st_size / count
    before, depth = _written(replicator.outbox), place.depth()
    _wait_until_idle(place)
    started = time.monotonic()
    with replicator:
        seconds_with_start = time.monotonic() - started
        costs = _costs(replicator, count)
        published = place.depth() - depth
    return first, {
        "per_second": count / _compared_in(replicator.outbox),
        "per_second_with_start": count / seconds_with_start,
        "published": float(published),
        "rows_written": float(_written(replicator.outbox) != before),
        **costs,
    }


def _read(run: Run, kind: programs.Kind, place: Place, count: int) -> dict[str, float]:
    program = programs.program(kind, place, run.directory, work=(count, SIZE))
    _wait_until_idle(place)
    started = time.monotonic()
    with program:
        is_open = time.monotonic()
        program.wait_for("done", _DEADLINE_SECONDS)
        done = time.monotonic()
        return {
            "per_second": count / (done - is_open),
            "per_second_with_start": count / (done - started),
            **_costs(program, count),
        }


def _wait_until_idle(place: Place) -> None:
    servers = {"rabbitmq": place.servers.rabbitmq.pid, "rethinkdb": place.servers.rethinkdb_pid}
    wait_until_idle(servers, _IDLE_DEADLINE_SECONDS)


def _costs(program: programs.Program, count: int) -> dict[str, float]:
    used = usage(program.pid)
    assert used is not None
    return {
        "cpu_seconds_per_1000": used.cpu_seconds * 1000 / count,
        "peak_memory_mb": program.memory("VmHWM"),
    }


def _written(outbox: Path) -> tuple[int, int, int]:
    """Return rows, the sum of their ids and the last entry's number: what a write would change."""
    database = sqlite3.connect(outbox)
    try:
        rows, ids = database.execute("SELECT count(*), sum(id) FROM documents").fetchone()
        (last,) = database.execute("SELECT last_entry FROM meta").fetchone()
    finally:
        database.close()
    return rows, ids, last


def _compared_in(outbox: Path) -> float:
    """Return the seconds that the last snapshot took, from the open feed until it was ready."""
    database = sqlite3.connect(outbox)
    try:
        opened, ready = database.execute("SELECT opened_at, ready_at FROM feeds").fetchone()
    finally:
        database.close()
    return (ready - opened) / 1e6


SNAPSHOT = Work(
    "snapshot",
    "A snapshot of 1 million documents: first publication, and a restart over it",
    measure,
    ("per_second", "per_second_with_start", "cpu_seconds_per_1000", "peak_memory_mb"),
    peer=programs.DRAIN_ONLY_RAW.name,
    goals=(
        Goal(
            "rate of a restart, to reading only",
            "per_second",
            0.6,
            None,
            programs.DRAIN_ONLY_RAW.name,
            _RESTART,
        ),
        Goal("messages published by a restart", "published", None, 0, None, _RESTART),
        Goal("index rows written by a restart", "rows_written", None, 0, None, _RESTART),
    ),
    minutes=6,
)
