"""Backlog: the broker is away while a million changes come in; then it is back.

RabbitMQ is stopped as an operator would, and started again on its data and port. While the
backlog is drained, new changes keep coming at 1,000 a second. The rate is measured from the first
message in the queue until it has as many as the backlog had; the time of the reconnect is given
beside it. For comparison the same replicator then drains changes that piled up in its feed, as in
the work ``drain``; before, the drain would determine its maximum of memory.

The limit of any program with pika is measured last: as many ready messages are published into an
empty queue, while new changes, which nobody reads, are written as before.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import programs
from benchmarks.figures import Goal, Measurement
from benchmarks.place import Place
from benchmarks.programs import Replicator
from benchmarks.work import Run, Work
from benchmarks.works import drain
from benchmarks.writer import write_at_rate

COUNT = 1_000_000
SIZE = 400
_NEW_PER_SECOND = 1_000
_CHUNK = 50_000
_MAX_ROUNDS = 2
_DEADLINE_SECONDS = 900.0
_BACKLOG, _FEED = "1 backlog", "2 feed"


def measure(run: Run) -> Iterator[Measurement]:
    """Measure at most twice, whatever the number of rounds: each takes minutes."""
    for number in range(1, min(run.rounds, _MAX_ROUNDS) + 1):
        outbox = run.directory / f"backlog{number}"
        outbox.mkdir()
        with Place(run.servers) as place:
            for case, program, figures in _once(run, place, outbox, run.scaled(COUNT)):
                run.say(f"round {number}: {case}, {program}: {figures['per_second']:,.0f}/s")
                yield Measurement(case, program, number, figures)


def _once(
    run: Run, place: Place, outbox: Path, count: int
) -> Iterator[tuple[str, str, dict[str, float]]]:
    kind = programs.REPLICATOR
    # The default pauses the feeds at a million entries, which new changes would reach.
    with Replicator(place, outbox, OUTBOX__MAX_ENTRIES=str(2 * COUNT)) as replicator:
        idle = replicator.memory()
        yield _BACKLOG, kind.name, backlog(run, place, replicator, count, idle=idle)
        _wait_until(replicator, lambda pending: not pending)
        place.purge()
        drained = run.scaled(drain.COUNT)
        yield (
            _FEED,
            kind.name,
            drain.pile_up_and_drain(run, kind, place, replicator, drained, SIZE, first=count),
        )
    place.purge()
    limit = programs.PUBLISH_ONLY
    with (
        programs.program(limit, place, outbox, work=(count, SIZE)) as publishing,
        _new_changes(place, first=count),
    ):
        began = time.monotonic()
        publishing.go()
        place.wait_for_depth(count, _DEADLINE_SECONDS, publishing.require_running)
        yield _BACKLOG, limit.name, {"per_second": count / (time.monotonic() - began)}


@contextlib.contextmanager
def _new_changes(place: Place, *, first: int = 0) -> Iterator[None]:
    """Write new documents while the block runs, numbered from ``first``."""
    is_over = threading.Event()
    writer = threading.Thread(
        target=write_at_rate,
        args=(place, _NEW_PER_SECOND, _DEADLINE_SECONDS),
        kwargs={"start": first, "is_wanted": lambda: not is_over.is_set()},
    )
    writer.start()
    try:
        yield
    finally:
        is_over.set()
        writer.join()


def backlog(
    run: Run, place: Place, replicator: Replicator, count: int, *, idle: float
) -> dict[str, float]:
    """Take the broker away, let a backlog come in, bring the broker back; return figures.

    Args:
        run: the run, with its servers.
        place: has the empty table.
        replicator: runs, and has nothing to do.
        count: the number of entries to pile up.
        idle: its memory in MiB when it had nothing to do.
    """
    place.disconnect()
    run.servers.rabbitmq.stop()
    for written in range(0, count, _CHUNK):
        place.insert(min(_CHUNK, count - written), SIZE, start=written)
        wanted = min(written + _CHUNK, count)
        _wait_until(replicator, lambda pending, wanted=wanted: pending >= wanted)
    full = replicator.memory("VmHWM")
    on_disk = sum(file.stat().st_size for file in replicator.outbox.parent.glob("*.db*"))
    run.say(f"{count:,} entries in the outbox, at most {full:.0f} MB")
    run.servers.rabbitmq.start()
    came_back = time.monotonic()
    place.connect()
    with _new_changes(place):
        place.wait_for_depth(1, _DEADLINE_SECONDS, replicator.require_running)
        began, depth = time.monotonic(), place.depth()
        place.wait_for_depth(count, _DEADLINE_SECONDS, replicator.require_running)
        seconds = time.monotonic() - began
    peak = replicator.memory("VmHWM")
    return {
        "per_second": (count - depth) / seconds,
        "reconnect_seconds": began - came_back,
        "idle_memory_mb": idle,
        "peak_memory_mb": peak,
        "above_idle_mb": peak - idle,
        "outbox_bytes_per_entry": on_disk / count,
    }


def _wait_until(replicator: Replicator, is_enough: Callable[[int], bool]) -> None:
    """Wait until the outbox has enough entries."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not is_enough(replicator.pending()):
        replicator.require_running()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{replicator.pending()} entries in the outbox")
        time.sleep(0.05)


BACKLOG = Work(
    "backlog",
    "The broker is away while 1 million changes come in, then back",
    measure,
    (
        "per_second",
        "reconnect_seconds",
        "idle_memory_mb",
        "peak_memory_mb",
        "above_idle_mb",
        "outbox_bytes_per_entry",
    ),
    peer=programs.PUBLISH_ONLY.name,
    goals=(
        Goal(
            "rate, to draining a feed",
            "per_second",
            0.8,
            None,
            "replicator",
            _BACKLOG,
            peer_case=_FEED,
        ),
        Goal("peak memory in MB", "peak_memory_mb", None, 150, None, _BACKLOG),
        Goal("peak memory above idle in MB", "above_idle_mb", None, 30, None, _BACKLOG),
    ),
    minutes=10,
)
