"""A consumer as a user would write one: it keeps a copy of the tables from the messages."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

_POLL_SECONDS = 0.05


class Message(NamedTuple):
    routing_key: str
    properties: pika.BasicProperties
    body: bytes
    redelivered: bool

    @property
    def op(self) -> str:
        return str(self.properties.type)

    @property
    def table(self) -> str:
        return self.routing_key.rpartition(".")[0]

    @property
    def outbox(self) -> str:
        return str(self.properties.message_id).rpartition("-")[0]

    @property
    def entry(self) -> int:
        """The entry's number: it only grows within an outbox."""
        return int(str(self.properties.message_id).rpartition("-")[2])

    @property
    def origin(self) -> str:
        headers = self.properties.headers or {}
        return str(headers.get("x-replicator-origin", "feed"))

    @property
    def old_val(self) -> Any:
        return json.loads(self.body)["old_val"]

    @property
    def new_val(self) -> Any:
        return json.loads(self.body)["new_val"]


class Consumer:
    """Consumes a durable queue on a thread of its own, and reconnects when necessary.

    The copy keeps the newest entry of each document and drops stale ones, as consumers should.
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str = "copy",
        exchange: str = "rethinkdb",
        binding: str = "#",
        primary_key: str = "id",
    ) -> None:
        self._url = url
        self._queue = queue
        self._exchange = exchange
        self._binding = binding
        self._primary_key = primary_key
        self._history: list[Message] = []
        self._newest: dict[tuple[str, str], Message] = {}
        self._changed = threading.Condition()
        self._is_ready = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(30), "the consumer did not get its queue"
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def history(self) -> list[Message]:
        """All messages in the order of their arrival, redeliveries too."""
        with self._changed:
            return list(self._history)

    def documents(self, table: str) -> dict[str, Any]:
        """The copy of a table: documents by the JSON text of their key."""
        with self._changed:
            return {
                key: message.new_val
                for (of_table, key), message in self._newest.items()
                if of_table == table and message.new_val is not None
            }

    def of_document(self, table: str, key: Any) -> list[Message]:
        """All messages about one document, in the order of their arrival."""
        wanted = (table, _key_text(key))
        return [message for message in self.history if self._identity(message) == wanted]

    def wait_for(self, condition: Callable[[Self], bool], seconds: float = 20) -> None:
        """Wait for a condition, which is checked again after each message."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition(self):
                left = deadline - time.monotonic()
                assert left > 0, f"not in time; {len(self._history)} messages arrived"
                self._changed.wait(left)

    def wait_for_count(self, count: int, seconds: float = 20) -> list[Message]:
        self.wait_for(lambda consumer: len(consumer._history) >= count, seconds)
        return self.history

    def _identity(self, message: Message) -> tuple[str, str]:
        document = message.old_val if message.new_val is None else message.new_val
        return message.table, _key_text(document[self._primary_key])

    def _take(self, message: Message) -> None:
        identity = self._identity(message)
        with self._changed:
            self._history.append(message)
            newest = self._newest.get(identity)
            # Numbers compare within one outbox; another outbox is a later replicator.
            if newest is None or newest.outbox != message.outbox or newest.entry <= message.entry:
                self._newest[identity] = message
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._end.is_set():
            # The broker may be down on purpose: try again until the test ends.
            with contextlib.suppress(AMQPError, AMQPConnectorException, OSError):
                self._consume()
            self._end.wait(_POLL_SECONDS)

    def _consume(self) -> None:
        parameters = pika.URLParameters(self._url)
        parameters.socket_timeout = parameters.stack_timeout = 5
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.exchange_declare(self._exchange, "topic", durable=True)
            channel.queue_declare(self._queue, durable=True)
            channel.queue_bind(self._queue, self._exchange, self._binding)
            channel.basic_qos(prefetch_count=1000)
            channel.basic_consume(self._queue, self._on_message)
            self._is_ready.set()
            while not self._end.is_set():
                connection.process_data_events(time_limit=_POLL_SECONDS)

    def _on_message(
        self,
        channel: BlockingChannel,
        method: pika.spec.Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        self._take(Message(str(method.routing_key), properties, body, bool(method.redelivered)))
        assert method.delivery_tag is not None
        channel.basic_ack(method.delivery_tag)


def _key_text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)
