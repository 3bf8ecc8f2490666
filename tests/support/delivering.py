"""A `Delivery` without a connection: a fake report, a fake clock, the broker's side by hand."""

from collections.abc import Sequence

import pytest
from pika import frame, spec

from replicator.domain.model import Entry, Failure, Op, Origin, Outcomes, Returned, TableName
from replicator.metrics import Metrics
from replicator.publisher import delivery as delivery_module
from replicator.publisher.broker import Publication
from replicator.publisher.delivery import Delivery
from replicator.publisher.frames import PublishFrames

OUTBOX = "abcdefg2"
NAMES = {1: TableName("db", "t"), 2: TableName("db", "l" * 60)}
NO_ROUTE = Returned(312, "NO_ROUTE")


def entry(number: int, *, feed_id: int = 1, key: str = "", op: Op = Op.UPDATE) -> Entry:
    return Entry(number, feed_id, key or str(number), op, Origin.FEED, b"{}", 1_000_000)


class Bench:
    """A delivery with a fake report, a fake clock, and the broker's side of the channel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **publication: object) -> None:
        self.now = 100.0
        monkeypatch.setattr(delivery_module.time, "monotonic", lambda: self.now)
        self.metrics = Metrics()
        self.reported: list[Outcomes] = []
        self.delivery = Delivery(
            Publication(**publication),  # type: ignore[arg-type]
            "rethinkdb",
            names=NAMES,
            report=self.reported.append,
            metrics=self.metrics,
            clock=lambda: self.now,
        )
        self.frames = PublishFrames(
            channel=1, frame_max=131072, outbox_id=OUTBOX, is_persistent=True
        )

    def publish(self, *entries: Entry) -> list[tuple[str, int]]:
        """Accept entries and return the routing keys and numbers of what is then sent."""
        self.delivery.accept(entries, self.delivery.window.reading)
        return self.sent()

    def sent(self) -> list[tuple[str, int]]:
        joined = b"".join(self.delivery.take(self.frames))
        found: list[tuple[str, int]] = []
        key = ""
        while joined:
            used, decoded = frame.decode_frame(joined)
            joined = joined[used:]
            if isinstance(decoded, frame.Method):
                assert decoded.method.mandatory
                key = decoded.method.routing_key
            elif isinstance(decoded, frame.Header):
                found.append((key, int(decoded.properties.message_id.partition("-")[2])))
        return found

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.delivery.on_confirm(spec.Basic.Ack(tag, multiple))

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        self.delivery.on_confirm(spec.Basic.Nack(tag, multiple))

    def hand_back(self, number: int) -> None:
        self.delivery.on_return(f"{OUTBOX}-{number}", NO_ROUTE)

    def flush(self) -> Outcomes:
        """Return what was reported since the last time, as one."""
        self.delivery.flush()
        reported, self.reported[:] = list(self.reported), []
        return Outcomes(
            [number for each in reported for number in each.settled],
            sum(each.settled_bytes for each in reported),
            [failure for each in reported for failure in each.failed],
            [failure for each in reported for failure in each.parked],
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def numbers(failures: Sequence[Failure]) -> list[tuple[int, str]]:
    return [(failure.number, failure.reason) for failure in failures]
