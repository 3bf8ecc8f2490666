"""What is published and what becomes of it: the window, the policies, the books.

Runs under the publisher's lock and knows no connection: it makes the bytes to write, takes
confirms, nacks and returns in, and once a turn reports and counts what they settled.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from pika import spec

from replicator.domain.model import (
    Entry,
    Failure,
    Op,
    Outcomes,
    Returned,
    TableName,
    of_table,
)
from replicator.domain.properties import compact_headers, entry_number, full_headers
from replicator.domain.routing import MAX_BYTES, RoutingKey
from replicator.domain.window import Confirmed, Limits, Window
from replicator.fault_points import FaultPoint, reach
from replicator.log import get_logger
from replicator.metrics import Metrics, grouped_instants
from replicator.publisher.broker import Publication
from replicator.publisher.frames import PublishFrames, address
from replicator.retry import REFUSED

_WINDOW_BYTES: Final = 16 * 1024 * 1024
_BUFFERED_BYTES: Final = 16 * 1024 * 1024
_BUFFERED_WINDOWS: Final = 2  # so many windows of entries may wait in memory
_LEAST_BUFFERED: Final = 4000
_WRITE_BYTES: Final = 128 * 1024  # pika copies what a socket did not take at once
_UNROUTABLE_LOG_SECONDS: Final = 60.0
# A channel that is closed for what was published names no message: the window shrinks by this
# much each time, until the message that is alone in flight is the one.
_SUSPECTS_SHRINK: Final = 16
_DEFAULT_ROUTING_KEY: Final = RoutingKey("{table}.{op}")


class Delivery:
    """The entries in memory and their outcomes; not thread-safe, one thread at a time."""

    def __init__(
        self,
        publication: Publication,
        exchange: str,
        *,
        names: Mapping[int, TableName],
        report: Callable[[Outcomes], None],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """Start with nothing; the arguments are those of `Publisher`."""
        self._publication = publication
        self._exchange = exchange
        self._names = names
        self._report = report
        self._metrics = metrics
        self._clock = clock
        self._log = get_logger("publisher")
        buffered = max(_BUFFERED_WINDOWS * publication.window, _LEAST_BUFFERED)
        self.window: Final = Window(
            Limits(publication.window, _WINDOW_BYTES, buffered, _BUFFERED_BYTES),
            backoff=REFUSED.seconds,
        )
        self._addresses: dict[tuple[int, Op], bytes] = {}
        self._suspects_up_to = 0
        self._unroutable_logged_at = -_UNROUTABLE_LOG_SECONDS
        self._confirmed: list[Confirmed] = []
        self._settled: list[Entry] = []
        self._failed: list[Failure] = []
        self._parked: list[Failure] = []

    def accept(self, entries: Iterable[Entry]) -> None:
        """Take committed entries in; those that AMQP cannot carry are parked."""
        self.window.offer(
            entry for entry in entries if self._address(entry) or self._park_key(entry)
        )

    def readmit(self, entries: Iterable[Entry]) -> None:
        """Take redriven entries in, like `accept`."""
        self.window.readmit(
            entry for entry in entries if self._address(entry) or self._park_key(entry)
        )

    def take(self, frames: PublishFrames) -> list[bytes]:
        """Return what is to be written now: many messages, few writes."""
        entries = self.window.take(time.monotonic())
        writes: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        has_full_headers = self._publication.has_full_headers
        addresses = self._addresses
        for entry in entries:
            headers = (
                full_headers(entry, self._names[entry.feed_id])
                if has_full_headers
                else compact_headers(entry)
            )
            # Whatever was taken in has its address by then.
            frames.append(pieces, entry, addresses[entry.feed_id, entry.op], headers)
            size += len(entry.body)
            if size >= _WRITE_BYTES:
                writes.append(b"".join(pieces))
                pieces, size = [], 0
        if pieces:
            writes.append(b"".join(pieces))
        self._metrics.in_flight.set(self.window.in_flight)
        return writes

    def on_return(self, message_id: str, reply: Returned) -> None:
        """Note that RabbitMQ handed a message back; its ack follows."""
        self.window.returned(entry_number(message_id), reply)

    def on_confirm(self, method: spec.Basic.Ack | spec.Basic.Nack) -> None:
        """Take a confirm or a nack in."""
        now = time.monotonic()
        tag, multiple = method.delivery_tag, method.multiple
        if isinstance(method, spec.Basic.Ack):
            confirmed = self.window.confirm(tag, multiple=multiple)
            self._confirmed += confirmed
            for each in confirmed:
                if each.returned is None:
                    self._settled.append(each.entry)
                else:
                    self._unroutable(each.entry, each.returned, now)
            return
        nacked = self.window.nack(tag, multiple=multiple, now=now)
        self._metrics.publish_outcomes.labels("nacked").inc(len(nacked))
        for entry in nacked:
            self._fail(entry, "nacked", "RabbitMQ did not take the message (basic.nack)")

    def suspect(self, text: str) -> None:
        """Narrow down which message RabbitMQ does not take, or park it when it was alone."""
        # Counted before: one that an operator has parked meanwhile is no longer told of, and may
        # have been it.
        was_alone = self.window.in_flight == 1
        suspects = self.window.lost()
        if was_alone and suspects:
            reason = "too_large" if "larg" in text or "size" in text else "refused"
            (entry,) = self.window.remove([suspects[0].number])
            self._parked.append(Failure(entry.number, reason, text))
            self._log.error(
                "entry is parked: rabbitmq does not take it",
                entry=entry.number,
                table=str(self._names.get(entry.feed_id)),
                bytes=len(entry.body),
                error=text,
            )
            self.window.cap = None
        elif suspects:
            self.window.cap = max(1, len(suspects) // _SUSPECTS_SHRINK)
            self._suspects_up_to = max(entry.number for entry in suspects)

    def _unroutable(self, entry: Entry, reply: Returned, now: float) -> None:
        """Do with a message that no queue took what the policy says."""
        name = self._names.get(entry.feed_id)
        self._metrics.unroutable.labels(str(name)).inc()
        self._metrics.publish_outcomes.labels("returned").inc()
        if self.window.is_withdrawn(entry.number):
            # An operator has parked or discarded it: the policy has no say in it any more.
            self.window.settle(entry)
            return
        policy = self._publication.on_unroutable
        if now - self._unroutable_logged_at >= _UNROUTABLE_LOG_SECONDS:
            self._unroutable_logged_at = now
            self._log.warning(
                "no queue is bound to a routing key",
                routing_key=self._routing_key(self._names[entry.feed_id], entry.op),
                exchange=self._exchange_of(self._names[entry.feed_id]),
                policy=policy,
                reply=reply.text,
            )
        if policy == "hold":
            self.window.retry(entry, now)
            self._fail(entry, "unroutable", reply.text)
            return
        self.window.settle(entry)
        if policy == "park":
            self._parked.append(Failure(entry.number, "unroutable", reply.text))
        else:
            self._settled.append(entry)

    def _fail(self, entry: Entry, reason: str, text: str) -> None:
        """Record a refused attempt: the first ones each, then ever fewer of them.

        None is left of an entry that was withdrawn.
        """
        attempts = self.window.attempts(entry.number)
        if attempts and attempts & (attempts - 1) == 0:
            self._failed.append(Failure(entry.number, reason, text, attempts - attempts // 2))

    def _address(self, entry: Entry) -> bytes:
        """Return where an entry goes; empty when AMQP cannot carry its routing key."""
        known = self._addresses.get((entry.feed_id, entry.op))
        if known is None:
            name = self._names[entry.feed_id]
            key = self._routing_key(name, entry.op)
            is_carried = len(key.encode()) <= MAX_BYTES
            known = address(self._exchange_of(name), key) if is_carried else b""
            self._addresses[entry.feed_id, entry.op] = known
        return known

    def _routing_key(self, name: TableName, op: Op) -> str:
        template = of_table(self._publication.routing_keys, name) or _DEFAULT_ROUTING_KEY
        return template.format(name.database, name.table, op.value)

    def _exchange_of(self, name: TableName) -> str:
        return of_table(self._publication.exchanges, name) or self._exchange

    def probes(self) -> list[tuple[str, str]]:
        """Return an exchange and a routing key for each way that messages will go.

        The key matters, since permissions can depend on it. Of a whole database no table is
        known yet that a key could be made of.
        """
        found: dict[str, str] = {}
        for name in self._publication.routing_keys:
            exchange, key = self._exchange_of(name), self._routing_key(name, Op.UPDATE)
            if not name.is_pattern and len(key.encode()) <= MAX_BYTES:
                found.setdefault(exchange, key)
        return list(found.items())

    def _park_key(self, entry: Entry) -> bool:
        text = f"the routing key is longer than the {MAX_BYTES} bytes that AMQP allows"
        self._parked.append(Failure(entry.number, "routing_key_too_long", text))
        return False

    def flush(self) -> bool:
        """Report and count what this turn settled; whether RabbitMQ confirmed anything."""
        confirmed, self._confirmed = self._confirmed, []
        settled, self._settled = self._settled, []
        failed, self._failed = self._failed, []
        parked, self._parked = self._parked, []
        if settled or failed or parked:
            reach(FaultPoint.CONFIRMED)
            self._report(
                Outcomes(
                    [entry.number for entry in settled],
                    sum(len(entry.body) for entry in settled),
                    failed,
                    parked,
                )
            )
        if confirmed:
            self._count(confirmed)
        if self.window.cap is not None and self.window.lowest > self._suspects_up_to:
            self.window.cap = None
        self._metrics.in_flight.set(self.window.in_flight)
        return bool(confirmed)

    def _count(self, confirmed: Sequence[Confirmed]) -> None:
        metrics = self._metrics
        delivered = [each.entry for each in confirmed if each.returned is None]
        metrics.publish_outcomes.labels("confirmed").inc(len(delivered))
        for (feed_id, op), count in Counter((e.feed_id, e.op) for e in delivered).items():
            metrics.entries_confirmed.labels(str(self._names[feed_id]), op.value).inc(count)
        now, instant = time.monotonic(), self._clock()
        for sent_at, count in grouped_instants(each.sent_at for each in confirmed):
            metrics.confirm_seconds.observe(max(0.0, now - sent_at), count)
        for captured_at, count in grouped_instants(entry.captured_at for entry in delivered):
            metrics.delivery_seconds.observe(max(0.0, instant - captured_at / 1e6), count)
