"""What is published and what becomes of it: the window, the policies, the books.

Knows no connection: it makes the bytes to write, takes confirms, nacks and returns in, and once a
turn of the loop reports and counts what they settled. Runs on the publisher's thread.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pika import spec

from replicator.domain.model import Entry, Failure, Outcomes, Returned, TableName
from replicator.domain.properties import compact_headers, entry_number, full_headers
from replicator.domain.routing import MAX_BYTES
from replicator.domain.window import Confirmed, Window, WindowLimits
from replicator.fault_points import FaultPoint, reach
from replicator.log import get_logger
from replicator.metrics import Metrics, grouped_instants
from replicator.publisher.addresses import Addresses
from replicator.publisher.broker import Publication
from replicator.publisher.frames import PublishFrames
from replicator.retry import REFUSED

_WINDOW_BYTES: Final = 16 * 1024 * 1024
_BUFFERED_BYTES: Final = 16 * 1024 * 1024
_BUFFERED_WINDOWS: Final = 2  # this many windows of entries may wait in memory
_MIN_BUFFERED: Final = 4000
_WRITE_BYTES: Final = 128 * 1024  # pika copies what a socket did not take at once
_UNROUTABLE_LOG_SECONDS: Final = 60.0
# A channel that is closed for what was published names no message: the window shrinks by this
# much each time, until the message that is alone in flight is the one.
_SUSPECTS_SHRINK: Final = 16


class Delivery:
    """The entries in memory and their outcomes; not thread-safe."""

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
        self._names = names
        self._report = report
        self._metrics = metrics
        self._clock = clock
        self._log = get_logger("publisher")
        buffered = max(_BUFFERED_WINDOWS * publication.window, _MIN_BUFFERED)
        self.window: Final = Window(
            WindowLimits(publication.window, _WINDOW_BYTES, buffered, _BUFFERED_BYTES),
            backoff=REFUSED.seconds,
        )
        self.addresses: Final = Addresses(publication, exchange, names)
        self._last_suspect = 0
        self._unroutable_logged_at = -_UNROUTABLE_LOG_SECONDS
        metrics.in_flight.set_function(lambda: self.window.in_flight)
        self._confirmed: list[Confirmed] = []
        self._settled: list[Entry] = []
        self._failed: list[Failure] = []
        self._parked: list[Failure] = []

    # What the store hands over.

    def accept(self, entries: Sequence[Entry], reading: int) -> None:
        """Take committed entries in; those that AMQP cannot carry are parked."""
        carried = [entry for entry in entries if self.addresses.of(entry)]
        if self.window.offer(carried, reading) and len(carried) < len(entries):
            text = f"the routing key is longer than the {MAX_BYTES} bytes that AMQP allows"
            self._parked += [
                Failure(entry.number, "routing_key_too_long", text)
                for entry in entries
                if not self.addresses.of(entry)
            ]

    def begin_reading(self) -> None:
        """Ask for the reading that has begun."""
        self._report(Outcomes(reading=self.window.reading))

    def forget(self) -> None:
        """Forget all but what is in flight, and ask for a new reading."""
        # Order matters: whoever reads the outbox again commits these first. What was settled or
        # parked before would else be pending to it, and published again.
        self.flush()
        self.window.forget()
        self.begin_reading()

    # What goes out, and what comes back.

    def take(self, frames: PublishFrames) -> list[bytes]:
        """Return what is to be written now: many messages, few writes."""
        writes: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        has_full_headers = self._publication.has_full_headers
        for entry in self.window.take(time.monotonic()):
            headers = (
                full_headers(entry, self._names[entry.feed_id])
                if has_full_headers
                else compact_headers(entry)
            )
            frames.append(pieces, entry, self.addresses.of(entry), headers)
            size += len(entry.body)
            if size >= _WRITE_BYTES:
                writes.append(b"".join(pieces))
                pieces, size = [], 0
        if pieces:
            writes.append(b"".join(pieces))
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

    def _unroutable(self, entry: Entry, reply: Returned, now: float) -> None:
        """Do with a message that no queue took what the policy says."""
        self._metrics.unroutable.labels(str(self._names[entry.feed_id])).inc()
        self._metrics.publish_outcomes.labels("returned").inc()
        policy = self._publication.on_unroutable
        if now - self._unroutable_logged_at >= _UNROUTABLE_LOG_SECONDS:
            self._unroutable_logged_at = now
            exchange, routing_key = self.addresses.exchange_and_key(entry)
            self._log.warning(
                "no queue is bound to a routing key",
                routing_key=routing_key,
                exchange=exchange,
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

        An orphan was forgotten, and has no attempts.
        """
        attempts = self.window.attempts(entry.number)
        if attempts and attempts & (attempts - 1) == 0:
            self._failed.append(Failure(entry.number, reason, text, attempts - attempts // 2))

    # When the channel is gone.

    def lost(self) -> list[Entry]:
        """Report what was settled, and forget everything; what was in flight is returned.

        Offers that are on their way will be of a reading that is over. Safe to repeat.
        """
        self.flush()
        return self.window.lost()

    def suspect(self, text: str) -> None:
        """Narrow down which message RabbitMQ does not take, or park it when it was alone."""
        suspects = self.lost()
        if len(suspects) == 1:
            (entry,) = suspects
            reason = "too_large" if "larg" in text or "size" in text else "refused"
            self._parked.append(Failure(entry.number, reason, text))
            # Order matters: parked before the next reading, or it would be read and sent again.
            self.flush()
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
            self._last_suspect = max(entry.number for entry in suspects)

    # Once a turn.

    def flush(self) -> None:
        """Report and count what was settled since the last time."""
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
            # Suspects are sent before newer entries, and RabbitMQ takes messages in turn: whatever
            # it confirms from the last suspect on says that it has taken them all.
            if any(each.entry.number >= self._last_suspect for each in confirmed):
                self.window.cap = None

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
