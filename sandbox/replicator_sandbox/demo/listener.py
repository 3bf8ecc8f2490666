"""The demo's listener: builds a copy of the table from the messages alone.

It does what `docs/delivery-guarantees.md` asks of a consumer: it has a durable queue, acknowledges
a message only after applying it, and lets a document's highest entry number win.
"""

import contextlib
import json
import threading
from collections import Counter
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from replicator.domain.properties import ORIGIN_HEADER, entry_number

_POLL_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 0.3
_PREFETCH: Final = 500


class Listener:
    """Consumes a durable queue on a thread of its own; reconnects for ever."""

    def __init__(self, url: str, exchange: str, queue: str) -> None:
        """Name what to listen to; `start` declares it."""
        self._parameters = pika.URLParameters(url)
        self._exchange = exchange
        self._queue = queue
        self._newest: dict[str, tuple[int, Any]] = {}  # number and document, None: deleted
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="listener", daemon=True)
        self.received = 0
        self.resent = 0
        self.stale = 0
        self.repaired: Counter[str] = Counter()  # by operation: what a resync found

    def start(self) -> None:
        """Declare the queue, so that nothing is missed from now on, and begin to consume."""
        with pika.BlockingConnection(self._parameters) as connection:
            self._declare(connection.channel())
        self._thread.start()

    def stop(self) -> None:
        """End the consuming; safe to repeat."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def remove(self) -> None:
        """Delete the queue and the exchange: for a broker that is not the demo's own."""
        with (
            contextlib.suppress(AMQPError, AMQPConnectorException, OSError),
            pika.BlockingConnection(self._parameters) as connection,
        ):
            channel = connection.channel()
            channel.queue_delete(self._queue)
            channel.exchange_delete(self._exchange)

    def copy(self) -> dict[str, Any]:
        """Return the copy as it is now: documents by their key."""
        with self._lock:
            return {
                key: document for key, (_, document) in self._newest.items() if document is not None
            }

    def _declare(self, channel: BlockingChannel) -> None:
        channel.exchange_declare(self._exchange, "topic", durable=True)
        channel.queue_declare(self._queue, durable=True)
        channel.queue_bind(self._queue, self._exchange, "#")

    def _main(self) -> None:
        while not self._stop.is_set():
            # The broker is taken away on purpose: try again until the demo ends.
            with contextlib.suppress(AMQPError, AMQPConnectorException, OSError):
                self._consume()
            self._stop.wait(_RETRY_SECONDS)

    def _consume(self) -> None:
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=_PREFETCH)
            channel.basic_consume(self._queue, self._on_message)
            while not self._stop.is_set():
                connection.process_data_events(time_limit=_POLL_SECONDS)

    def _on_message(
        self,
        channel: BlockingChannel,
        method: pika.spec.Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        self._apply(properties, json.loads(body))
        # Order matters: a message that is acknowledged before it is applied is lost in a crash.
        channel.basic_ack(method.delivery_tag or 0)

    def _apply(self, properties: pika.BasicProperties, change: dict[str, Any]) -> None:
        identity = str(properties.message_id)
        number = entry_number(identity)
        key = (change["new_val"] or change["old_val"])["id"]
        with self._lock:
            self.received += 1
            if identity in self._seen:
                self.resent += 1
                return
            self._seen.add(identity)
            if (properties.headers or {}).get(ORIGIN_HEADER) == "resync":
                self.repaired[str(properties.type)] += 1
            if number < self._newest.get(key, (0, None))[0]:
                self.stale += 1
                return
            self._newest[key] = (number, change["new_val"])
