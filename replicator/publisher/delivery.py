"""What is published and what becomes of it: the window, the policies, the books.

Runs on the publisher's thread and knows no connection: it makes the bytes to write, takes
confirms, nacks and returns in, and once a turn reports and counts what they settled.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from pika import spec

from replicator.domain.message import compact_headers, entry_number, full_headers
from replicator.domain.model import Entry, Failure, Op, Outcomes, Returned, TableName
from replicator.domain.retry import REFUSED
from replicator.domain.routing import MAX_BYTES, RoutingKey
from replicator.domain.window import Confirmed, Limits, Window
from replicator.fault_points import FaultPoint, reach
from replicator.log import get_logger
from replicator.metrics import Metrics, grouped_instants
from replicator.publisher.broker import Publication
from replicator.publisher.frames import PublishFrames

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
    """The entries in memory and their outcomes; one thread owns it."""

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
        self._routing_keys: dict[tuple[int, Op], bytes] = {}
        self._suspects_up_to = 0
        self._unroutable_logged_at = -_UNROUTABLE_LOG_SECONDS
        self._confirmed: list[Confirmed] = []
        self._settled: list[Entry] = []
        self._failed: list[Failure] = []
        self._parked: list[Failure] = []

    def accept(self, entries: Iterable[Entry]) -> None:
        """Take committed entries in; those that AMQP cannot carry are parked."""
        self.window.offer(
            entry for entry in entries if self._routing_key(entry) or self._park_key(entry)
        )

    def take(self, frames: PublishFrames) -> list[bytes]:
        """Return what is to be written now: many messages, few writes."""
        entries = self.window.take(time.monotonic())
        writes: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        has_full_headers = self._publication.has_full_headers
        for entry in entries:
            headers = (
                full_headers(entry, self._names[entry.feed_id])
                if has_full_headers
                else compact_headers(entry)
            )
            frames.append(pieces, entry, self._routing_key(entry), headers)
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
            for entry, _, reply in confirmed:
                if reply is None:
                    self._settled.append(entry)
                else:
                    self._unroutable(entry, reply, now)
            return
        nacked = self.window.nack(tag, multiple=multiple, now=now)
        self._metrics.publish_outcomes.labels("nacked").inc(len(nacked))
        for entry in nacked:
            self._fail(entry, "nacked", "RabbitMQ did not take the message (basic.nack)")

    def suspect(self, text: str) -> None:
        """Narrow down which message RabbitMQ does not take, or park it when it was alone."""
        suspects = self.window.lost()
        if len(suspects) == 1:
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
        policy = self._publication.on_unroutable
        if now - self._unroutable_logged_at >= _UNROUTABLE_LOG_SECONDS:
            self._unroutable_logged_at = now
            self._log.warning(
                "no queue is bound to a routing key",
                routing_key=self._routing_key(entry).decode(),
                exchange=self._exchange,
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
        """Record a refused attempt: the first ones each, then ever fewer of them."""
        attempts = self.window.attempts(entry.number)
        if attempts & (attempts - 1) == 0:
            self._failed.append(Failure(entry.number, reason, text, attempts - attempts // 2))

    def _routing_key(self, entry: Entry) -> bytes:
        """Return the routing key of an entry; empty when AMQP cannot carry it."""
        known = self._routing_keys.get((entry.feed_id, entry.op))
        if known is None:
            name = self._names[entry.feed_id]
            template = self._publication.routing_keys.get(name, _DEFAULT_ROUTING_KEY)
            known = template.format(name.database, name.table, entry.op.value).encode()
            if len(known) > MAX_BYTES:
                known = b""
            self._routing_keys[entry.feed_id, entry.op] = known
        return known

    def any_routing_key(self) -> str:
        """Return a routing key that messages will have; permissions may depend on it."""
        for name, template in self._publication.routing_keys.items():
            key = template.format(name.database, name.table, Op.UPDATE.value)
            if len(key.encode()) <= MAX_BYTES:
                return key
        return ""

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
