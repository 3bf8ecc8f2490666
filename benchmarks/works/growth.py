"""Growth: how time, CPU time and memory grow when the work grows ten times.

Draining a feed (8,000 and 80,000 changes), first publication of a snapshot and a restart over it
(20,000 and 200,000 documents), draining a backlog (20,000 and 200,000 entries). 10 is linear;
memory that does not depend on the work stays at 1.
"""

from collections.abc import Iterator, Mapping

from benchmarks import programs
from benchmarks.figures import Measurement
from benchmarks.place import Place
from benchmarks.programs import Replicator
from benchmarks.work import Run, Work
from benchmarks.works import backlog, drain, snapshot

_DRAINED = 8_000
_DOCUMENTS = 20_000
_TIMES = 10
_KINDS = (programs.REPLICATOR, programs.TUTORIAL, programs.JAVASCRIPT_CONFIRM)
_Figures = Mapping[str, float]


def measure(run: Run) -> Iterator[Measurement]:
    replicator = programs.REPLICATOR.name
    drained, documents = run.scaled(_DRAINED), run.scaled(_DOCUMENTS)
    for number, kind in run.in_rounds(programs.runnable(_KINDS)):
        small = drain.drain(run, kind, drained)
        large = drain.drain(run, kind, drained * _TIMES)
        figures = _grown(small, large, drained)
        run.say(f"round {number}: {kind.name}, drain: {figures['seconds_grow']:.1f} times")
        yield Measurement("1 drain", kind.name, number, figures)
        if kind is programs.REPLICATOR:
            small_parts = _replicator(run, documents, f"{number}-small")
            large_parts = _replicator(run, documents * _TIMES, f"{number}-large")
            for case, figures in small_parts.items():
                run.say(f"round {number}: {case}")
                both = _grown(figures, large_parts[case], documents)
                yield Measurement(case, replicator, number, both)


def _replicator(run: Run, count: int, name: str) -> dict[str, _Figures]:
    directory = run.directory / f"growth-{name}"
    directory.mkdir()
    with Place(run.servers) as place:
        place.insert(count, snapshot.SIZE)
        first, again = snapshot.publish_and_restart(place, directory, count)
    with Place(run.servers) as place, Replicator(place, directory) as replicator:
        idle = replicator.memory()
        late = backlog.backlog(run, place, replicator, count, idle=idle)
    return {"2 first publication": first, "3 restart": again, "4 backlog": late}


def _grown(small: _Figures, large: _Figures, count: int) -> dict[str, float]:
    figures = {
        "seconds": count / small["per_second"],
        "seconds_of_ten_times": count * _TIMES / large["per_second"],
        "seconds_grow": _TIMES * small["per_second"] / large["per_second"],
        "memory_grows": large["peak_memory_mb"] / small["peak_memory_mb"],
    }
    if small.get("cpu_seconds_per_1000"):
        per_change = large["cpu_seconds_per_1000"] / small["cpu_seconds_per_1000"]
        figures["cpu_seconds_grow"] = _TIMES * per_change
    return figures


GROWTH = Work(
    "growth",
    "How much more ten times the work needs",
    measure,
    ("seconds_grow", "cpu_seconds_grow", "memory_grows", "seconds", "seconds_of_ten_times"),
    minutes=5,
)
