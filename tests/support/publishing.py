"""A publisher on its own thread, with entries that a test makes by hand, without an outbox."""

import itertools
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import pika

from replicator.domain.model import Entry, Failure, Op, Origin, Outcomes, TableName
from replicator.domain.routing import RoutingKey
from replicator.domain.window import Window
from replicator.errors import ReplicatorError
from replicator.metrics import Metrics
from replicator.publisher.broker import Broker, Publication
from replicator.publisher.publisher import Publisher
from tests.support.consumer import Consumer
from tests.support.wait import wait_until

OUTBOX_ID = "abcdefgh"
TABLE = TableName("shop", "mytable")
CAPTURED_AT = 1_700_000_000_123_456
_JOIN_SECONDS = 10
_PAGE = 500


def broker_of(url: str, **changes: Any) -> Broker:
    """Return the broker that a URL names."""
    found = pika.URLParameters(url)
    broker = Broker(
        hosts=[(found.host, found.port)],
        user=found.credentials.username,
        password=found.credentials.password,
        virtual_host=found.virtual_host,
        exchange="rethinkdb",
        is_tls=found.ssl_options is not None,
    )
    return broker._replace(**changes)


def broker_at(host: tuple[str, int] = ("127.0.0.1", 1)) -> Broker:
    """Return a broker at a place where, at first, nobody listens."""
    return Broker([host], "guest", "guest", "/", "rethinkdb")


def idle_publisher(
    report: Callable[[Outcomes], None] = lambda _outcomes: None, **publication: Any
) -> Publisher:
    """Return a publisher that does not run."""
    return Publisher(
        broker_at(),
        Publication(**publication),
        outbox_id=OUTBOX_ID,
        names={1: TABLE},
        report=report,
        metrics=Metrics(),
        clock=lambda: 5.0,
    )


def make_entry(number: int, key: object = 1, **fields: Any) -> Entry:
    body = {"old_val": None, "new_val": {"id": key, "n": number}}
    return Entry(
        **{
            "number": number,
            "feed_id": 1,
            "key": json.dumps(key),
            "op": Op.UPDATE,
            "origin": Origin.FEED,
            "body": json.dumps(body).encode(),
            "captured_at": CAPTURED_AT,
            **fields,
        }
    )


def make_entries(count: int, *, keys: int, first: int = 1) -> list[Entry]:
    """Return entries of a few documents, each with many versions, in the order of their numbers."""
    return [make_entry(number, number % keys) for number in range(first, first + count)]


class Outbox:
    """Does what the store does for a publisher: commits reports, and hands entries over in order.

    On a thread of its own, like the store.
    """

    def __init__(self, reports: Sequence[Outcomes]) -> None:
        self._reports = reports
        self._lock = threading.Lock()
        self._pending: dict[int, Entry] = {}
        self._parked: dict[int, Entry] = {}
        self._committed = 0
        self._reading = 0
        self._handed_over = 0

    def add(self, entries: Iterable[Entry]) -> None:
        with self._lock:
            self._pending |= {entry.number: entry for entry in entries}

    def park(self, numbers: Iterable[int]) -> None:
        """Park entries as an operator does; to be followed by `forget`."""
        with self._lock:
            self._parked |= {n: self._pending.pop(n) for n in numbers if n in self._pending}

    def redrive(self) -> None:
        """Redrive all parked entries; to be followed by `forget`."""
        with self._lock:
            self._pending |= self._parked
            self._parked.clear()

    @property
    def is_handed_over(self) -> bool:
        with self._lock:
            return all(number <= self._handed_over for number in self._pending)

    def step(self, publisher: Publisher) -> None:
        with self._lock:
            for report in self._reports[self._committed :]:
                self._committed += 1
                for number in [*report.settled, *(failure.number for failure in report.parked)]:
                    self._pending.pop(number, None)
                if report.reading:
                    self._reading, self._handed_over = report.reading, 0
            waiting = (n for n in sorted(self._pending) if n > self._handed_over)
            if page := list(itertools.islice(waiting, min(publisher.room, _PAGE))):
                publisher.offer([self._pending[number] for number in page], self._reading)
                self._handed_over = page[-1]


class RunningPublisher:
    """Runs a `Publisher`, and keeps whatever it reports. On exit it is stopped and has ended."""

    def __init__(self, broker: str | Broker, **publication: Any) -> None:
        self.metrics = Metrics()
        self.reports: list[Outcomes] = []
        self.error: ReplicatorError | None = None
        self.publisher = Publisher(
            broker_of(broker) if isinstance(broker, str) else broker,
            Publication(**{"routing_keys": {TABLE: RoutingKey("{table}.{op}")}, **publication}),
            outbox_id=OUTBOX_ID,
            names={1: TABLE},
            report=self.reports.append,
            metrics=self.metrics,
        )
        self.outbox = Outbox(self.reports)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._has_ended = threading.Event()

    def _run(self) -> None:
        store = threading.Thread(target=self._hand_over, daemon=True)
        store.start()
        try:
            self.publisher.run()
        except ReplicatorError as err:
            self.error = err
        finally:
            self._has_ended.set()
            store.join()

    def _hand_over(self) -> None:
        while not self._has_ended.wait(0.002):
            self.outbox.step(self.publisher)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.publisher.stop()
        self.thread.join(_JOIN_SECONDS)
        assert not self.thread.is_alive(), "the publisher did not stop"

    @property
    def window(self) -> Window:
        return self.publisher._delivery.window

    @property
    def settled(self) -> list[int]:
        return [number for report in list(self.reports) for number in report.settled]

    @property
    def failed(self) -> list[Failure]:
        return [failure for report in list(self.reports) for failure in report.failed]

    @property
    def parked(self) -> list[Failure]:
        return [failure for report in list(self.reports) for failure in report.parked]

    def offer(self, entries: Sequence[Entry]) -> None:
        """Commit entries, and wait until they are handed over, if there is a connection."""
        self.outbox.add(entries)
        wait_until(
            lambda: self.outbox.is_handed_over or not self.publisher.status().is_connected,
            30,
            "room",
        )

    def wait_until_connected(self, seconds: float = 20) -> None:
        wait_until(lambda: self.publisher.status().is_connected, seconds, "a connection")

    def wait_until_settled(self, count: int, seconds: float = 30) -> None:
        wait_until(lambda: len(self.settled) >= count, seconds, f"{count} settled entries")

    def wait_for_refusal(self, seconds: float = 20) -> ReplicatorError:
        """Return the error that ended it."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"still running: {self.publisher.status()}"
        assert self.error is not None
        return self.error

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def assert_all_arrived_in_order(consumer: Consumer, entries: Sequence[Entry]) -> None:
    """G1 and G3: nothing is missing, and each document's first deliveries are in order."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        wanted[entry.key].append(entry.number)
    numbers = {entry.number for entry in entries}
    consumer.wait_for(lambda it: numbers <= {message.entry for message in it._history}, 30)
    arrived: dict[str, list[int]] = defaultdict(list)
    for message in consumer.history:
        arrived[json.dumps((message.new_val or message.old_val)["id"])].append(message.entry)
    for key, expected in wanted.items():
        assert list(dict.fromkeys(arrived[key])) == expected, f"first deliveries of {key}"
        assert arrived[key][-1] == expected[-1], f"the last delivered of {key} is not the newest"


def repeated(consumer: Consumer) -> list[int]:
    """Return the entries that arrived more than once."""
    counts = Counter(message.entry for message in consumer.history)
    return [number for number, count in counts.items() if count > 1]
