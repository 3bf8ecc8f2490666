"""Properties: what a message's properties cost RabbitMQ, by their size.

Ready messages are published with pika and nothing else, into a classic queue. Erlang keeps binaries
of up to 64 bytes on a process's heap and longer ones outside of it: RabbitMQ 3.10 has a step there.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import programs
from benchmarks.figures import Measurement
from benchmarks.place import Place
from benchmarks.programs import Program
from benchmarks.work import Run, Work
from benchmarks.works import drain

SIZES = (60, 62, 64, 65, 67, 70)
_WINDOW = 5_000
# Encoded: two bytes of flags, the content type and the delivery mode, and one byte of a length.
_BESIDE_MESSAGE_ID = 21
_ROOT = Path(__file__).parents[2]


def measure(run: Run) -> Iterator[Measurement]:
    """Publish with properties of each size, in every round."""
    count, kind = run.scaled(drain.COUNT), programs.PUBLISH_ONLY
    for number, size in run.in_rounds(SIZES):
        with Place(run.servers) as place:
            script = str(_ROOT / "benchmarks/peers/publish_only.py")
            work = [place.url, place.name, "mytable.create", str(count), str(drain.SIZE)]
            more = [str(_WINDOW), "i" * (size - _BESIDE_MESSAGE_ID)]
            started = Program([sys.executable, script, *work, *more], os.environ)
            with started as program:
                figures = drain.pile_up_and_drain(run, kind, place, program, count, drain.SIZE)
        run.say(f"round {number}: properties of {size} B: {figures['per_second']:,.0f}/s")
        yield Measurement(f"{size} B of properties", kind.name, number, figures)


PROPERTIES = Work(
    "properties",
    f"Publishing 80,000 messages of {drain.SIZE} B with properties of 60 to 70 bytes",
    measure,
    ("per_second", "broker_cpu_seconds_per_1000"),
    peer="",
    minutes=4,
)
