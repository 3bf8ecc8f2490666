"""Drain: a backlog in a changefeed, until all of it is in a durable queue.

Each program gets a table, an exchange and a queue of its own. It is frozen (SIGSTOP), changes pile
up in its feed, and once RethinkDB has them on its disk it goes on; the depth of the queue is read
every 20 ms. 80,000 changes are less than the 100,000 that RethinkDB keeps for a feed. CPU time and
bytes written, of the feeder and of the servers, are counted until all of them are idle again, so
that late work counts too; memory is the maximum since the start.

Two kinds are limits, not feeders: ``publish-only`` publishes ready messages, ``drain-only-…``
reads the feed and publishes nothing.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks import processes, programs
from benchmarks.figures import Goal, Measurement
from benchmarks.place import Place
from benchmarks.processes import Usage
from benchmarks.programs import Kind, Program
from benchmarks.work import Run, Work

COUNT = 80_000
SIZE = 400
DEADLINE_SECONDS = 300.0
_IDLE_DEADLINE_SECONDS = 5.0
_FEEDERS = (
    programs.REPLICATOR,
    programs.TUTORIAL,
    programs.JAVASCRIPT_CONFIRM,
    programs.PUBLISH_ONLY,
)
_FIGURES = (
    "per_second",
    "cpu_seconds_per_1000",
    "broker_cpu_seconds_per_1000",
    "rethinkdb_cpu_seconds_per_1000",
    "peak_memory_mb",
    "written_bytes_per_1000",
)


def drain(
    run: Run, kind: Kind, count: int, size: int = SIZE, *, queue: str = "classic"
) -> dict[str, float]:
    """Let one program drain ``count`` changes once; return its figures."""
    with Place(run.servers, is_durable=kind.is_durable, queue=queue) as place:
        started = programs.program(kind, place, run.directory, work=(count, size))
        with started as program:
            return pile_up_and_drain(run, kind, place, program, count, size)


def pile_up_and_drain(
    run: Run, kind: Kind, place: Place, program: Program, count: int, size: int, *, first: int = 0
) -> dict[str, float]:
    """Freeze a program, insert changes, let it go; return what it then needed.

    The table has ``first`` documents and one for each message in the queue.
    """
    depth = place.depth()
    program.hold()
    if kind.reads:
        place.insert(count, size, start=first + depth)
    # RethinkDB still writes to its disk: that is the cost of the inserts, not of the feed.
    Meter(run, program).wait_until_idle()
    meter = Meter(run, program)
    started = time.monotonic()
    program.go()
    if kind.publishes:
        place.wait_for_depth(depth + count, DEADLINE_SECONDS, program.require_running)
    else:
        program.wait_for("done", DEADLINE_SECONDS)
    seconds = time.monotonic() - started
    program.require_running()
    arrived = float(place.depth() - depth)
    return {"per_second": count / seconds, "arrived": arrived, **meter.figures(count)}


class Meter:
    """Measures what a feeder and the servers use from now on."""

    def __init__(self, run: Run, program: Program) -> None:
        self._program = program
        rabbitmq, rethinkdb = run.servers.rabbitmq.pid, run.servers.rethinkdb_pid
        self._pids = {"": program.pid, "broker_": rabbitmq, "rethinkdb_": rethinkdb}
        self._before = processes.usages(self._pids)

    def figures(self, count: int) -> dict[str, float]:
        """Return what ``count`` changes have cost, after waiting until all work on them is done.

        Messages are in the queue before the replicator has settled their entries, and before
        everything that the broker writes is on its disk.
        """
        after = self.wait_until_idle()
        figures = {"peak_memory_mb": self._program.memory("VmHWM")}
        for who, last in after.items():
            first = self._before[who]
            cpu = last.cpu_seconds - first.cpu_seconds
            written = last.written_bytes - first.written_bytes
            figures[f"{who}cpu_seconds_per_1000"] = cpu * 1000 / count
            figures[f"{who}written_bytes_per_1000"] = written * 1000 / count
        return figures

    def wait_until_idle(self) -> dict[str, Usage]:
        """Wait until the program and the servers are idle; return what was used until then."""
        return processes.wait_until_idle(self._pids, _IDLE_DEADLINE_SECONDS)


def measure(
    run: Run,
    kinds: Sequence[Kind],
    sizes: Sequence[int],
    queue: str = "classic",
) -> Iterator[Measurement]:
    """Let each kind drain changes of each size, in every round."""
    count = run.scaled(COUNT)
    able = programs.runnable(kinds)
    for number, (kind, size) in run.in_rounds([(kind, size) for size in sizes for kind in able]):
        figures = drain(run, kind, count, size, queue=queue)
        run.say(f"round {number}: {kind.name}, {size} B: {figures['per_second']:,.0f}/s")
        yield Measurement(f"{size} B", kind.name, number, figures)


def _goal(what: str, ratio: float, peer: Kind) -> Goal:
    return Goal(what, "per_second", at_least=ratio, peer=peer.name, case=f"{SIZE} B")


DRAIN = Work(
    "drain",
    "Draining 80,000 changes of 400 B into a classic queue",
    partial(measure, kinds=programs.ALL, sizes=(SIZE,)),
    _FIGURES,
    goals=(
        _goal("rate, to the tutorial's Python feeder", 1.0, programs.TUTORIAL),
        _goal("rate, to JavaScript confirmed and persistent", 1.0, programs.JAVASCRIPT_CONFIRM),
        _goal("rate, to confirm_delivery one by one", 5.0, programs.TUTORIAL_CONFIRM),
        _goal("rate, to publishing only", 0.95, programs.PUBLISH_ONLY),
        Goal(
            "CPU time, to the tutorial's Python feeder",
            "cpu_seconds_per_1000",
            at_most=0.6,
            peer=programs.TUTORIAL.name,
            case=f"{SIZE} B",
        ),
    ),
    minutes=5,
)
SIZES = Work(
    "drain-sizes",
    "Draining 80,000 changes of 100 B and 4 KB into a classic queue",
    partial(measure, kinds=_FEEDERS, sizes=(100, 4000)),
    _FIGURES,
    minutes=5,
)


def _into(queue: str, name: str) -> Work:
    return Work(
        name,
        f"Draining 80,000 changes of 400 B into a {queue} queue",
        partial(measure, kinds=_FEEDERS, sizes=(SIZE,), queue=queue),
        _FIGURES,
        minutes=2.5,
    )


LAZY = _into("classic-lazy", "drain-lazy")
V2 = _into("classic-v2", "drain-v2")
QUORUM = _into("quorum", "drain-quorum")
