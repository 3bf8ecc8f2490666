"""Where the processor's time goes: each step of a change's way, alone, without servers.

CPU microseconds per change, the minimum of some rounds: a profile cannot show them on a noisy
machine. The changes are creates; all of them are committed first, then read back, published and
confirmed, as in a drain in which the publisher lags.

Usage: python -m benchmarks.stages [--count 20000] [--size 400] [--rounds 7] [--batch 2000]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from pika import spec

from replicator.domain.feed_element import Change, decode_response
from replicator.domain.items import FeedBatch
from replicator.domain.model import Entry, Outcomes
from replicator.metrics import Metrics
from replicator.publisher.broker import Publication
from replicator.publisher.delivery import Delivery
from replicator.publisher.frames import PublishFrames
from replicator.store.inbox import Work
from tests.support.outbox import TABLE, Outbox

_PAGE = 1000
_MAX_BYTES = 1 << 30
_CONFIRMED_BY_ONE_FRAME = 20


class Stopwatch:
    """Adds up the CPU seconds of this process by step, including those of other threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


def response(first: int, count: int, size: int) -> str:
    """Return a batch of live changes as RethinkDB sends it."""
    filler = "x" * max(0, size - 60)
    elements = [
        {
            "new_val": {"filler": filler, "id": f"document-{n:012d}", "n": n},
            "old_val": None,
            "type": "add",
        }
        for n in range(first, first + count)
    ]
    return msgspec.json.encode({"t": 3, "r": elements, "n": [1]}).decode()


def capture(outbox: Outbox, watch: Stopwatch, count: int, size: int, batch: int) -> None:
    outbox.step(outbox.opened())
    outbox.step(outbox.ready())
    for first in range(0, count, batch):
        text = response(first, min(batch, count - first), size)
        with watch.step("decode"):
            changes: list[Change] = decode_response(text)["r"]  # type: ignore[assignment]
        length = sum(len(each.new_val) for each in changes)
        work = Work([FeedBatch(1, changes, length, outbox.now)], [])
        with watch.step("capture"):
            outbox.store.step(work, outbox.now)


def read_back(outbox: Outbox, watch: Stopwatch, after: int) -> list[Entry]:
    with watch.step("read back"):
        return list(outbox.outbox.page(after, max_entries=_PAGE, max_bytes=_MAX_BYTES).entries)


def publish(outbox: Outbox, watch: Stopwatch) -> None:
    reported: list[Outcomes] = []
    delivery = Delivery(
        Publication(),
        "rethinkdb",
        names={1: TABLE},
        report=reported.append,
        metrics=Metrics(),
        clock=time.time,
    )
    frames = PublishFrames(channel=1, frame_max=131072, outbox_id="abcdefg2", is_persistent=True)
    tag = after = 0
    while found := read_back(outbox, watch, after):
        after = found[-1].number
        with watch.step("publish"):
            delivery.accept(found, delivery.window.reading)
            delivery.take(frames)
        last = tag + len(found)
        with watch.step("confirm"):
            while tag < last:
                tag = min(tag + _CONFIRMED_BY_ONE_FRAME, last)
                delivery.on_confirm(spec.Basic.Ack(tag, multiple=True))
            delivery.flush()
        with watch.step("settle"):
            outbox.store.step(Work([], reported), outbox.now)
        reported.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=400, help="bytes of a document")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2_000, help="changes that come together")
    arguments = parser.parse_args()
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as directory:
            outbox = Outbox(Path(directory) / "outbox.db", room=0)
            capture(outbox, watch, arguments.count, arguments.size, arguments.batch)
            publish(outbox, watch)
            outbox.close()
        rounds.append(watch.seconds)
    fastest = {step: min(each[step] for each in rounds) for step in rounds[0]}
    for step, seconds in fastest.items():
        print(f"{step:<10} {seconds / arguments.count * 1e6:6.2f} microseconds a change")
    print(f"{'together':<10} {sum(fastest.values()) / arguments.count * 1e6:6.2f}")


if __name__ == "__main__":
    main()
