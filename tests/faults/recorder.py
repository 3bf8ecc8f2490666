"""A consumer that keeps the whole history of its durable queue, and a copy made of nothing else."""

import contextlib
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from tests.support.wait import wait_until

QUEUE = "record"
EXCHANGE = "rethinkdb"
_POLL_SECONDS = 0.02
_PREFETCH = 500

# The queue of a cluster. One consumer at a time: what it was sent and never got is sent to the next
# one first. Without that it may come after newer entries, whatever the publisher did.
REPLICATED = {"x-queue-type": "quorum", "x-single-active-consumer": True}


def refusing_above(max_waiting: int) -> dict[str, Any]:
    """Return the arguments of a queue that refuses (nacks) when its consumer stops."""
    return {"x-max-length": max_waiting, "x-overflow": "reject-publish"}


class Delivery(NamedTuple):
    """What one delivery said; `version` numbers are those of `workload`."""

    outbox: str
    entry: int
    table: str
    key: str
    op: str
    origin: str
    old_version: int | None
    new_version: int | None
    is_redelivered: bool
    at: float  # seconds since the epoch


def version(document: Any) -> int | None:
    """Return the number that the writer gave to this state of a document."""
    return None if document is None else document.get("v")


class Recorder:
    """Consumes on a thread of its own, connects again when it has to, and can be told to fail."""

    def __init__(
        self, urls: Sequence[str], arguments: Mapping[str, Any], heartbeat_seconds: int = 10
    ) -> None:
        """Prepare; `with` starts it.

        Args:
            urls: where the broker is; each attempt to connect begins with the next one.
            arguments: of the queue.
            heartbeat_seconds: a broker that was silent for twice as long is left.
        """
        self._urls = itertools.cycle(urls)
        self._arguments = dict(arguments)
        self._heartbeat_seconds = heartbeat_seconds
        self.history: list[Delivery] = []
        self._newest: dict[tuple[str, str], tuple[str, int, Any]] = {}
        self.outboxes: list[str] = []
        self._lock = threading.Lock()
        self._orders: queue.Queue[Callable[[BlockingChannel], None]] = queue.Queue()
        self._is_bound = True
        self._is_consuming = True
        self._is_attached = threading.Event()
        self._is_cancelled = False
        self._end = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_attached.wait(30), "the recorder did not get its queue"
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)
        assert self.error is None, f"the recorder failed: {self.error!r}"

    def copy(self, table: str) -> dict[str, Any]:
        """Return the table as messages alone tell it: documents by the JSON text of their key.

        Only messages of the newest outbox count: another one begins with a snapshot.
        """
        with self._lock:
            newest = self.outboxes[-1:]
            return {
                key: document
                for (of_table, key), (outbox, _, document) in self._newest.items()
                if of_table == table and document is not None and [outbox] == newest
            }

    def snapshot(self) -> list[Delivery]:
        """Return the history up to now."""
        with self._lock:
            return list(self.history)

    def wait_for_more(self, count: int, seconds: float) -> None:
        """Wait until so many more deliveries have come."""
        enough = len(self.history) + count
        wait_until(lambda: len(self.history) >= enough, seconds, f"{count} more deliveries")

    # Faults.

    def pause(self) -> None:
        """Consume no more: the queue fills, and then the broker nacks."""
        self._is_consuming = False
        self._orders.put(_cancel)

    def delete_queue(self) -> None:
        """Delete the queue, when what is in it was read: what it held would else be lost.

        That a queue takes its content along is no loss of the replicator's.
        """
        self._is_bound = self._is_consuming = False
        done = threading.Event()

        def delete(channel: BlockingChannel) -> None:
            channel.queue_unbind(QUEUE, EXCHANGE, "#")
            _cancel(channel)
            while True:
                method, properties, body = channel.basic_get(QUEUE)
                if method is None:
                    break
                self._take(method, properties, body)
                channel.basic_ack(method.delivery_tag)
            channel.queue_delete(QUEUE)
            done.set()

        self._orders.put(delete)
        done.wait(5)

    def heal(self) -> None:
        """Have the queue, its binding and a consumer again, whatever was done to them."""
        self._is_bound = self._is_consuming = True
        self._is_attached.clear()

        def reconnect(channel: BlockingChannel) -> None:
            channel.connection.close()

        self._orders.put(reconnect)

    def wait_until_attached(self, seconds: float = 60) -> None:
        wait_until(self._is_attached.is_set, seconds, "the recorder's consuming")

    # The thread.

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                # The broker is down on purpose now and then: try again until the end.
                with contextlib.suppress(AMQPError, AMQPConnectorException, OSError):
                    self._consume()
            except Exception as err:  # noqa: BLE001 -- shown by `__exit__`, in the test's thread
                self.error = err
                return
            self._end.wait(_POLL_SECONDS)

    def _consume(self) -> None:
        parameters = pika.URLParameters(next(self._urls))
        parameters.socket_timeout = parameters.stack_timeout = 3
        parameters.heartbeat = self._heartbeat_seconds
        self._is_cancelled = False
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            if self._is_bound:
                channel.exchange_declare(EXCHANGE, "topic", durable=True)
                channel.queue_declare(QUEUE, durable=True, arguments=self._arguments)
                channel.queue_bind(QUEUE, EXCHANGE, "#")
            if self._is_consuming:
                channel.basic_qos(prefetch_count=_PREFETCH)
                channel.add_on_cancel_callback(self._on_cancel)
                channel.basic_consume(QUEUE, self._on_message)
                self._is_attached.set()
            while connection.is_open and not self._is_cancelled and not self._end.is_set():
                with contextlib.suppress(queue.Empty):
                    self._orders.get_nowait()(channel)
                    continue
                connection.process_data_events(time_limit=_POLL_SECONDS)

    def _on_cancel(self, _method: object) -> None:
        """The broker cancels: the queue was deleted, or its leader is gone."""
        self._is_cancelled = True

    def _on_message(
        self, channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self._take(method, properties, body)
        channel.basic_ack(method.delivery_tag)

    def _take(self, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        content = json.loads(body)
        old, new = content["old_val"], content["new_val"]
        outbox, _, number = str(properties.message_id).rpartition("-")
        table = method.routing_key.rpartition(".")[0]
        key = json.dumps((new or old)["id"])
        origin = (properties.headers or {}).get("x-replicator-origin", "feed")
        delivery = Delivery(
            outbox,
            int(number),
            table,
            key,
            str(properties.type),
            origin,
            version(old),
            version(new),
            bool(method.redelivered),
            time.time(),
        )
        with self._lock:
            if outbox not in self.outboxes:
                self.outboxes.append(outbox)
            self.history.append(delivery)
            before = self._newest.get((table, key))
            if before is None or before[0] != outbox or before[1] <= delivery.entry:
                self._newest[table, key] = (outbox, delivery.entry, new)


def _cancel(channel: BlockingChannel) -> None:
    for tag in list(channel.consumer_tags):
        channel.basic_cancel(tag)
