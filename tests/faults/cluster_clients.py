"""Who writes to a cluster and who consumes from one, and goes on when a member does not."""

import contextlib
import itertools
import json
import random
import sqlite3
import struct
import threading
import time
from collections.abc import Sequence
from socket import SO_RCVTIMEO, SOL_SOCKET
from typing import Any, NamedTuple, Protocol, Self

import pika
from pika.exceptions import AMQPError
from rethinkdb import errors as reql
from rethinkdb import r

from tests.faults.clusters import SIZE
from tests.support.consumer import Consumer, Message
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import driver_socket
from tests.support.wait import wait_until
from tests.support.writer import truth

QUEUE = "copy"
_PAUSE_SECONDS = 0.003
_ANSWER_SECONDS = 2
_HEARTBEAT_SECONDS = 4
_CONVERGE_SECONDS = 120
# The driver knows no timeout for an answer; the kernel does.
_RECEIVE_TIMEOUT = struct.pack("ll", _ANSWER_SECONDS, 0)


class Servers(Protocol):
    """RethinkDB with one or more servers."""

    def connect(self, number: int) -> Any:
        """Open a driver's connection to one of them."""
        ...


class ClusterWriter:
    """Writes on a thread of its own, from a seed; asks the next server when one does not answer.

    A write that failed may have been done: what is true is what the table says in the end.
    """

    def __init__(self, cluster: Servers, database: str, *, seed: int) -> None:
        self._cluster = cluster
        self._table = r.db(database).table("mytable")
        self._random = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._number = seed
        self.writes = 0
        self.failures = 0
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.error is None, f"the writer failed: {self.error!r}"

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Wait until so many more writes were done."""
        enough = self.writes + more
        wait_until(lambda: self.writes >= enough, seconds, f"{more} writes")

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                try:
                    self._write_to(self._number % SIZE)
                except (reql.ReqlError, OSError, AttributeError):
                    # AttributeError: the driver uses a socket that it dropped.
                    self.failures += 1
                    self._number += 1
                    self._end.wait(0.05)
        except Exception as err:  # noqa: BLE001 -- shown by `stop`, in the test's thread
            self.error = err

    def _write_to(self, number: int) -> None:
        connection = self._cluster.connect(number)
        sock = driver_socket(connection)
        sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _RECEIVE_TIMEOUT)
        try:
            while not self._end.wait(_PAUSE_SECONDS):
                self._write(connection)
                self.writes += 1
        finally:
            sock.close()

    def _write(self, connection: Any) -> None:
        # A few keys are hot, so that many versions of one document are under way at once.
        key = self._random.randrange(100) if self._random.random() < 0.7 else 0
        action = self._random.random()
        document = {"id": key, "n": self.writes, "text": "x" * self._random.randrange(300)}
        if action < 0.6:
            query = self._table.insert(document, conflict="replace")
        elif action < 0.8:
            query = self._table.get(key).update({"n": self.writes})
        else:
            query = self._table.get(key).delete()
        done = query.run(connection, durability="soft")
        if done["errors"]:
            raise reql.ReqlAvailabilityError(done["first_error"])


class DoubtfulWrites:
    """Writes at the first server until it is cut off: what was under way then is in doubt."""

    def __init__(self, servers: Servers, database: str) -> None:
        self._table = r.db(database).table("mytable")
        self._servers = servers
        self._threads = [
            threading.Thread(target=self._run, args=(f"w{n}",), daemon=True) for n in range(8)
        ]
        self.keys: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for_the_end(self, seconds: float = 30) -> None:
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive()

    def _run(self, name: str) -> None:
        with self._servers.connect(0) as driver:
            for number in itertools.count():
                key = f"{name}-{number}"
                try:
                    self._table.insert({"id": key}).run(driver, durability="soft")
                except reql.ReqlOpIndeterminateError:
                    self.keys.append(key)
                    return
                except reql.ReqlRuntimeError:
                    return  # it was not done, for one of several reasons


class ClusterConsumer(Consumer):
    """Consumes from a quorum queue at whichever node serves it, and remembers when."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(urls[0], queue=QUEUE)
        self._urls = list(urls)
        self._arrived_at: list[float] = []
        self._is_cancelled = False

    @property
    def count(self) -> int:
        return len(self._history)

    def wait_for_more(self, count: int, seconds: float = 90) -> None:
        """Wait until so many more messages have come."""
        self.wait_for_count(self.count + count, seconds)

    def newest(self, table: str, key: Any) -> Message | None:
        with self._changed:
            return self._newest.get((table, json.dumps(key)))

    def longest_pause(self) -> float:
        """Return the most seconds between one message and the next."""
        with self._changed:
            times = self._arrived_at
            return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def duplicates(self) -> float:
        """Return which share of the messages were repetitions."""
        numbers = [message.entry for message in self.history]
        return 1 - len(set(numbers)) / len(numbers)

    def _take(self, message: Message) -> None:
        super()._take(message)
        self._arrived_at.append(time.monotonic())

    def _consume(self) -> None:
        self._urls.append(self._urls.pop(0))
        parameters = pika.URLParameters(self._urls[-1])
        parameters.socket_timeout = parameters.stack_timeout = 5
        parameters.heartbeat = _HEARTBEAT_SECONDS
        self._is_cancelled = False
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.exchange_declare(self._exchange, "topic", durable=True)
            channel.queue_declare(self._queue, durable=True, arguments={"x-queue-type": "quorum"})
            channel.queue_bind(self._queue, self._exchange, self._binding)
            channel.basic_qos(prefetch_count=200)
            channel.add_on_cancel_callback(self._on_cancel)
            channel.basic_consume(self._queue, self._on_message)
            self._is_ready.set()
            while not self._end.is_set() and not self._is_cancelled:
                connection.process_data_events(time_limit=0.05)
        finally:
            with contextlib.suppress(AMQPError, OSError):
                connection.close()

    def _on_cancel(self, _method: object) -> None:
        self._is_cancelled = True


class Measured(NamedTuple):
    """How an outage looked to the consumer."""

    messages: int
    duplicates: float  # share of all messages
    longest_pause_seconds: float
    converged_seconds: float  # since all was healthy and the writer had stopped

    def __str__(self) -> str:
        return (
            f"{self.messages} messages, {self.duplicates:.2%} of them twice,"
            f" longest pause {self.longest_pause_seconds:.1f} s,"
            f" converged {self.converged_seconds:.1f} s after healing"
        )


def assert_converges(
    cluster: Servers, database: str, consumer: ClusterConsumer, process: ReplicatorProcess
) -> Measured:
    """Wait until all is well, then look at each promise; the writer has stopped."""
    started_at = time.monotonic()
    with cluster.connect(0) as driver:
        wait_until(
            lambda: consumer.documents("mytable") == truth(driver, database),
            _CONVERGE_SECONDS,
            "the copy to equal the table",
        )
        converged = time.monotonic() - started_at
        process.wait_until_ready()
        wait_until(lambda: process.status()["outbox"]["pending"] == 0, 60, "an empty outbox")
        wait_until(lambda: missing(consumer, process) == [], 60, "every entry")
        assert consumer.documents("mytable") == truth(driver, database)
    assert out_of_order(consumer) == []
    assert [gap for gap in gaps(process) if gap["to"] is None] == []
    assert "Traceback" not in process.log()
    return Measured(consumer.count, consumer.duplicates(), consumer.longest_pause(), converged)


def out_of_order(consumer: ClusterConsumer) -> list[str]:
    """Return the messages that came after a newer one of their document, though never before.

    What the broker itself repeats does not count. When a consumer's node dies, a quorum queue may
    serve the next consumer before it takes back what the last one had been sent and never got:
    that comes late, marked as redelivered, whatever the publisher did.
    """
    newest: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    found = []
    for message in consumer.history:
        document = consumer._identity(message)
        is_repeated = message.redelivered or message.entry in seen
        if message.entry < newest.get(document, 0) and not is_repeated:
            found.append(f"{document}: {message.entry} after {newest[document]}")
        newest[document] = max(message.entry, newest.get(document, 0))
        seen.add(message.entry)
    return found


def missing(consumer: ClusterConsumer, process: ReplicatorProcess) -> list[int]:
    """Return the numbers of entries that were given out and never delivered."""
    with contextlib.closing(sqlite3.connect(f"file:{process.outbox}?mode=ro", uri=True)) as found:
        (last,) = found.execute("select last_entry from meta").fetchone()
    delivered = {message.entry for message in consumer.history}
    return sorted(set(range(1, last + 1)) - delivered)


def gaps(process: ReplicatorProcess) -> list[dict[str, Any]]:
    done = process.run("feed", "gaps", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def hosts_of(process: ReplicatorProcess, event: str) -> list[str]:
    """Return the hosts that the replicator named in its log with an event, in order of time."""
    lines = (json.loads(line) for line in process.log().splitlines() if line.startswith("{"))
    return [line["host"] for line in lines if line.get("event") == event]


def broker_of(process: ReplicatorProcess) -> str:
    """Return the ``host:port`` that the replicator publishes to, or did last."""
    return hosts_of(process, "publishing")[-1]


def source_of(process: ReplicatorProcess) -> str:
    """Return the ``host:port`` that the replicator's feed comes from, or did last."""
    return hosts_of(process, "feed is open, comparing its snapshot")[-1]
