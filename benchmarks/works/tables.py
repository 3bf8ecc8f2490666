"""Tables: the same total work in 1, 10 and 50 tables of one replicator.

All three replicators run throughout, each with its own outbox and queue. In each round each of
them, in changing order, is frozen while 80,000 changes are spread over its tables, then let go.
"""

import contextlib
from collections.abc import Iterator

from benchmarks import programs
from benchmarks.figures import Goal, Measurement
from benchmarks.place import Place
from benchmarks.work import Run, Work
from benchmarks.works import drain

COUNTS = (1, 10, 50)


def measure(run: Run) -> Iterator[Measurement]:
    kind = programs.REPLICATOR
    count = run.scaled(drain.COUNT)
    with contextlib.ExitStack() as stack:
        running = []
        for tables in COUNTS:
            names = tuple(f"table{n}" for n in range(tables))
            place = stack.enter_context(Place(run.servers, tables=names))
            made = programs.program(kind, place, run.directory, work=(count, drain.SIZE))
            running.append((tables, place, stack.enter_context(made)))
            run.say(f"{tables} tables are followed")
        for number, (tables, place, program) in run.in_rounds(running):
            figures = drain.pile_up_and_drain(run, kind, place, program, count, drain.SIZE)
            run.say(f"round {number}: {tables} tables: {figures['per_second']:,.0f}/s")
            yield Measurement(f"{tables} tables", kind.name, number, figures)


TABLES = Work(
    "tables",
    "The same work in 1, 10 and 50 tables at once",
    measure,
    ("per_second", "cpu_seconds_per_1000", "peak_memory_mb"),
    peer="",
    goals=(
        Goal(
            "rate of 50 tables, to one table",
            "per_second",
            0.8,
            None,
            "replicator",
            "50 tables",
            peer_case="1 tables",
        ),
    ),
    minutes=3,
)
