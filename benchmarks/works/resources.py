"""Resources: what 1,000 changes cost, in a drain and at a steady 1,000 changes a second.

CPU time, bytes written and the maximum of memory, as in the work ``drain``. Fsyncs of the feeder
are counted by strace, which stops a program at those calls only (``--seccomp-bpf``); those of the
broker by RabbitMQ itself (``file_handle_cache_stats``, up to 3.13). A figure that neither can
count is missing in the report.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from replicator_sandbox.rabbitmq import PrivateRabbitMQ, RabbitMQFailed

from benchmarks import programs
from benchmarks.figures import Measurement
from benchmarks.place import Place
from benchmarks.programs import Kind, Program
from benchmarks.work import Run, Work
from benchmarks.works import drain
from benchmarks.writer import write_at_rate

_COUNT = 20_000
_RATE = 1_000
_SECONDS = 10.0
_KINDS = (programs.REPLICATOR, programs.TUTORIAL, programs.JAVASCRIPT_CONFIRM)
_DRAIN, _STEADY = "1 drain", "2 steady 1,000/s"


def measure(run: Run) -> Iterator[Measurement]:
    if shutil.which("strace") is None:
        run.say("no strace here: the feeders' fsyncs are not counted")
    kinds = programs.runnable(_KINDS)
    cases = [(kind, case) for case in (_DRAIN, _STEADY) for kind in kinds]
    for number, (kind, case) in run.in_rounds(cases):
        figures = _measure(run, kind, case, number)
        fsyncs = figures.get("fsyncs_per_1000")
        run.say(f"round {number}: {kind.name}, {case}: {fsyncs} fsyncs per 1,000")
        yield Measurement(case, kind.name, number, figures)


def _measure(run: Run, kind: Kind, case: str, number: int) -> dict[str, float]:
    count = run.scaled(_COUNT)
    trace = run.directory / f"trace-{kind.name}-{case[0]}-{number}"
    with Place(run.servers, is_durable=kind.is_durable) as place:
        made = programs.program(
            kind, place, run.directory, work=(count, drain.SIZE), tracer=_tracer(trace)
        )
        with made as program:
            broker = _broker_fsyncs(run.servers.rabbitmq)
            began = time.time()
            if case == _DRAIN:
                figures = drain.pile_up_and_drain(run, kind, place, program, count, drain.SIZE)
            else:
                count = int(_RATE * max(1.0, _SECONDS * run.scale))
                figures = _steady(run, place, program, count)
            ended = time.time()
            after = _broker_fsyncs(run.servers.rabbitmq)
    if broker is not None and after is not None:
        figures["broker_fsyncs_per_1000"] = (after - broker) * 1000 / count
    if trace.exists():
        figures["fsyncs_per_1000"] = _fsyncs(trace, began, ended) * 1000 / count
    return figures


def _steady(run: Run, place: Place, program: Program, count: int) -> dict[str, float]:
    meter = drain.Meter(run, program)
    write_at_rate(place, _RATE, count / _RATE)
    place.wait_for_depth(count, drain.DEADLINE_SECONDS, program.require_running)
    return meter.figures(count)


def _tracer(file: Path) -> Sequence[str]:
    """Return the command that traces a program from a separate process (-D)."""
    if shutil.which("strace") is None:
        return ()
    calls = "trace=fsync,fdatasync"
    return ("strace", "-D", "-f", "--seccomp-bpf", "-q", "-ttt", "-e", calls, "-o", str(file))


def _fsyncs(trace: Path, began: float, ended: float) -> int:
    """Count the calls in this time, without the second lines of interrupted calls."""
    count = 0
    for line in trace.read_text().splitlines():
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[2].startswith(("fsync(", "fdatasync(")):
            count += began <= float(words[1]) <= ended
    return count


def _broker_fsyncs(rabbitmq: PrivateRabbitMQ) -> int | None:
    try:
        text = rabbitmq.ctl("eval", "file_handle_cache_stats:get().")
    except RabbitMQFailed:
        return None  # RabbitMQ 4 does not have these statistics
    _, _, rest = text.partition("{{io_sync,count},")
    return int(rest.partition("}")[0])


RESOURCES = Work(
    "resources",
    "What 1,000 changes cost",
    measure,
    (
        "cpu_seconds_per_1000",
        "broker_cpu_seconds_per_1000",
        "rethinkdb_cpu_seconds_per_1000",
        "peak_memory_mb",
        "written_bytes_per_1000",
        "broker_written_bytes_per_1000",
        "fsyncs_per_1000",
        "broker_fsyncs_per_1000",
    ),
    minutes=4,
)
