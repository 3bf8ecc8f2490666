"""The publisher's thread: a window of unconfirmed messages over pika's asynchronous connection.

It never waits for one message. Entries come from the store through `offer`; everything else happens
on the loop of the connection. What a turn of the loop did is reported and counted once, at its end.

Whatever is done, the loop's lock is held: by the loop's thread, which waits for RabbitMQ, or by a
thread that offers a few entries while the loop has nothing to do, and then takes the turn itself.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from pika import spec

from replicator.domain.model import Entry, Outcomes, Returned, TableName
from replicator.errors import (
    BrokerUnavailable,
    ReplicatorError,
)
from replicator.fault_points import FaultPoint, reach
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.publisher.broker import Broker, Publication, prepare
from replicator.publisher.delivery import Delivery
from replicator.publisher.fence import fence_name
from replicator.publisher.frames import PublishFrames
from replicator.publisher.incoming import Incoming
from replicator.publisher.link import Link
from replicator.publisher.reports import Reports
from replicator.retry import REFUSED, Retrying

_TICK_SECONDS: Final = 1.0
_NO_CONFIRM_SECONDS: Final = 300.0
# A channel of a cluster can stay behind after a node's death: RabbitMQ 3.10 then nacks whatever is
# published on it to a quorum queue that is well, for ever. A queue that is full nacks as well.
_REFUSED_SECONDS: Final = 15.0
_MOST_REFUSED_SECONDS: Final = 240.0
_MOST_TOLD: Final = 16
# So many entries are published by the thread that offers them: more are work for the other one.
_FEW: Final = 100


class PublisherStatus(NamedTuple):
    """What the publisher is like now."""

    is_connected: bool
    is_blocked: bool
    in_flight: int
    buffered: int
    refused: int
    error: str | None
    since: float  # seconds since the epoch: when it last connected, lost it, or was blocked
    turned_at: float  # monotonic seconds: when the loop last turned


class Publisher:
    """Publishes until stopped; `run` is its thread. An `EntrySink` for the store."""

    def __init__(
        self,
        broker: Broker,
        publication: Publication,
        *,
        outbox_id: str,
        names: Mapping[int, TableName],
        report: Callable[[Outcomes], None],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Bind to a broker; nothing is opened yet.

        Args:
            broker: where, and what must be there.
            publication: how messages look.
            outbox_id: the 8 characters in front of each message id.
            names: the table of each feed that may have entries.
            report: takes what became of entries; must not wait.
            metrics: where it is counted.
            clock: seconds since the epoch.
        """
        self._broker = broker
        self._publication = publication
        self._outbox_id = outbox_id
        self._metrics = metrics
        self._clock = clock
        self._log = get_logger("publisher")
        self._reports = Reports(report)
        self._delivery = Delivery(
            publication,
            broker.exchange,
            names=names,
            report=self._reports.send,
            metrics=metrics,
            clock=clock,
        )
        self._incoming = Incoming()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._retrying = Retrying(self._stop, note=self._note, is_patient=lambda: self._was_open)
        self._is_idle = threading.Condition()
        self._link: Link | None = None
        self._frames: PublishFrames | None = None
        self._is_open = False
        self._was_open = False
        self._is_blocked = False
        self._is_turn_due = False
        self._retry_due_at = 0.0
        self._progress_at = time.monotonic()
        self._refused_since: float | None = None
        self._refused_seconds = _REFUSED_SECONDS
        self._turned_at = time.monotonic()
        self._error: str | None = None
        self._told: deque[str] = deque(maxlen=_MOST_TOLD)
        self._since = clock()

    # For other threads.

    @property
    def room(self) -> int:
        """How many entries may be offered now."""
        return self._delivery.window.room_beside(self._incoming.count, self._incoming.size)

    def offer(self, entries: Sequence[Entry]) -> None:
        """Take committed entries, in the order of their numbers; never waits.

        A few of them are published before it returns, if nothing else is being done.
        """
        accept = partial(self._delivery.accept, entries)
        if len(entries) > _FEW or not self._publish_here(accept, entries):
            self._take_in(accept, entries)

    def readmit(self, entries: Sequence[Entry]) -> None:
        """Take redriven entries, whatever their numbers; never waits."""
        self._take_in(partial(self._readmit, entries), entries)

    def committed(self, reports: int) -> None:
        """Take the oldest so many reports for committed; never waits, nor wakes the loop."""
        self._incoming.put(partial(self._reports.forget, reports))

    def withdraw(self, numbers: Collection[int]) -> None:
        """Send entries no more that an operator parked or discarded; never waits."""
        self._take_in(partial(self._delivery.window.withdraw, numbers), ())

    def _publish_here(self, accept: Callable[[], object], entries: Sequence[Entry]) -> bool:
        """Take entries in and publish them if the loop has nothing else to do; whether so."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            # Only the loop's thread can set its alarm for what is refused.
            if not self._is_open or self._delivery.window.next_retry_at is not None:
                return False
            self._incoming.put(accept, entries)
            self._move()
        except BaseException:
            # A defect. Delivery tags may be counted that RabbitMQ will never give: nothing more
            # may be sent over this connection, or its confirms would be taken for others'.
            self.on_ended()
            if (link := self._link) is not None:
                link.call_soon(link.hang_up)
            raise
        finally:
            self._lock.release()
        return True

    def _take_in(self, order: Callable[[], object], entries: Sequence[Entry]) -> None:
        self._incoming.put(order, entries)
        if (link := self._link) is not None:
            link.call_soon(self._turn)

    def status(self) -> PublisherStatus:
        """Return what it is like now."""
        window = self._delivery.window
        return PublisherStatus(
            self._is_open,
            self._is_blocked,
            window.in_flight,
            window.buffered + self._incoming.count,
            window.refused,
            self._error,
            self._since,
            self._turned_at,
        )

    def drain(self, seconds: float) -> bool:
        """Wait until everything that was offered is settled; whether it is.

        Gives up at once when there is no connection: then nothing can be confirmed.
        """
        deadline = time.monotonic() + seconds
        with self._is_idle:
            while not (self._delivery.window.is_empty and not self._incoming.count):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._is_open:
                    return False
                self._is_idle.wait(min(remaining, 0.1))
        return True

    def stop(self) -> None:
        """End `run` soon; what is not confirmed stays in the outbox. Safe to repeat."""
        self._stop.set()
        if (link := self._link) is not None:
            link.call_soon(link.hang_up)

    # The loop.

    def run(self) -> None:
        """Keep a connection open and publish on it until stopped.

        Raises:
            PermanentError: when it occurs before the broker was ever reached in this process.
                Later the same error is retried slowly.
        """
        self._retrying.until_stopped(self._session)

    def _note(self, err: ReplicatorError) -> None:
        text = str(err)
        # Several hosts fail in turn, each in its own way: none of it is news the second time.
        if text not in self._told:
            self._told.append(text)
            self._log.warning("rabbitmq is not available, retrying", error=text, hint=err.hint)
        self._error = text

    def _session(self) -> None:
        """Publish over one connection until it ends.

        Raises:
            BrokerUnavailable, ChannelClosed, BrokerRefused: why it ended, unless it was stopped.
        """
        self._turned_at = time.monotonic()
        chosen = prepare(self._broker)
        link = Link(
            chosen,
            self,
            lock=self._lock,
            fence=fence_name(self._broker.exchange, self._outbox_id),
            probes=[] if self._was_open else self._delivery.probes(),
        )

        self._link = link
        # Race: `stop` may have come before there was a link that it could hang up.
        if self._stop.is_set():
            link.call_soon(link.hang_up)
        try:
            link.run()
        finally:
            self._link = None
            with self._lock:
                self._is_blocked = self._is_turn_due = False
                self._metrics.broker_blocked.set(0)
                self._delivery.window.lost()
                self._flush()

    # What the link tells.

    def on_open(self, link: Link, channel: int, frame_max: int) -> None:
        """Publish: the channel confirms from now on."""
        if self._stop.is_set():
            return
        self._frames = PublishFrames(
            channel=channel,
            frame_max=frame_max,
            outbox_id=self._outbox_id,
            is_persistent=self._publication.is_persistent,
        )
        self._is_open = True
        if self._was_open:
            self._metrics.reconnects.labels("rabbitmq").inc()
        self._was_open = True
        self._error = None
        self._told.clear()
        self._since = self._clock()
        self._progress_at = time.monotonic()
        self._refused_since = None
        self._retry_due_at = 0.0
        self._metrics.connected.labels("rabbitmq").set(1)
        self._log.info("publishing", host=link.host, exchange=self._broker.exchange)
        self._turn()
        self._tick()

    def on_blocked(self, reason: str) -> None:
        """Publish nothing until it is unblocked."""
        self._is_blocked = True
        self._since = self._clock()
        self._metrics.broker_blocked.set(1)
        self._log.warning(
            "rabbitmq blocks publishers, changes are kept in the outbox", reason=reason
        )

    def on_unblocked(self) -> None:
        """Go on."""
        self._is_blocked = False
        self._since = self._clock()
        self._progress_at = time.monotonic()
        self._metrics.broker_blocked.set(0)
        self._log.info("rabbitmq takes messages again")
        self._turn()

    def on_return(self, message_id: str, reply: Returned) -> None:
        """Note that no queue took a message; its confirm follows."""
        self._delivery.on_return(message_id, reply)

    def on_confirm(self, method: spec.Basic.Ack | spec.Basic.Nack) -> None:
        """Take a confirm in; a turn follows."""
        self._progress_at = time.monotonic()
        if isinstance(method, spec.Basic.Ack):
            self._refused_since = None
            self._refused_seconds = _REFUSED_SECONDS
        elif self._refused_since is None:
            self._refused_since = self._progress_at
        self._delivery.on_confirm(method)
        self._is_turn_due = True

    def on_read(self) -> None:
        """Do what follows from confirms: one turn, however many came in together."""
        if self._is_turn_due:
            self._turn()

    def on_rejected(self, text: str) -> None:
        """Look for the message that RabbitMQ does not take."""
        self._delivery.suspect(text)

    def on_ended(self) -> None:
        """Write nothing more; safe to repeat."""
        self._metrics.connected.labels("rabbitmq").set(0)
        if self._is_open:
            self._is_open = False
            self._since = self._clock()

    # A turn of the loop.

    def _tick(self) -> None:
        """Turn at least once a second, and notice a broker that is silent or takes nothing."""
        link = self._link
        if not self._is_open or link is None:
            return
        if (text := self._reason_to_leave(time.monotonic())) is not None:
            link.hang_up(BrokerUnavailable(text))
            return
        self._turn()
        link.call_later(_TICK_SECONDS, self._tick)

    def _reason_to_leave(self, now: float) -> str | None:
        """Say why another connection, at the next host, may do better than this one."""
        if self._is_blocked:
            self._progress_at = now
            self._refused_since = None
        elif (
            self._refused_since is not None
            and now - self._refused_since > self._refused_seconds
            # Refused again and again, not once and then never answered: that is the next case.
            and now - self._progress_at < 2 * REFUSED.max_seconds
        ):
            text = f"RabbitMQ has refused every message for {self._refused_seconds:.0f} seconds"
            # A new connection does not help against a full queue: try less and less often.
            self._refused_seconds = min(2 * self._refused_seconds, _MOST_REFUSED_SECONDS)
            return text
        elif not self._delivery.window.in_flight:
            self._progress_at = now
        elif now - self._progress_at > _NO_CONFIRM_SECONDS:
            return f"RabbitMQ has confirmed nothing for {_NO_CONFIRM_SECONDS:.0f} seconds"
        return None

    def _turn(self) -> None:
        """Do what there is to do; on the loop's thread."""
        self._is_turn_due = False
        self._turned_at = time.monotonic()
        self._move()
        link = self._link
        if self._is_open and not self._is_blocked and link is not None:
            self._call_for_retries(link)

    def _move(self) -> None:
        """Take in what was offered, report what is settled, publish what may go."""
        self._incoming.do()
        self._flush()
        link, frames = self._link, self._frames
        if not self._is_open or self._is_blocked or link is None or frames is None:
            return
        for write in self._delivery.take(frames):
            reach(FaultPoint.BEFORE_WRITE)
            link.write(write)
            reach(FaultPoint.AFTER_WRITE)

    def _call_for_retries(self, link: Link) -> None:
        """Let a turn come when the next refused entry is due."""
        due_at = self._delivery.window.next_retry_at
        if due_at is None or self._turned_at <= self._retry_due_at <= due_at:
            return  # none, or a call that comes in time is under way
        self._retry_due_at = due_at
        link.call_later(max(0.0, due_at - self._turned_at), self._turn)

    def _readmit(self, entries: Sequence[Entry]) -> None:
        # Order matters: what was answered in this turn is reported before it is looked for.
        self._flush()
        # Race: these were read while their outcome was on its way to the store. Its commit
        # decides. Published again, an old state could be delivered last.
        self._delivery.readmit(self._reports.without(entries))

    def _flush(self) -> None:
        if self._delivery.flush():
            self._retrying.worked()
        if self._delivery.window.is_empty:
            with self._is_idle:
                self._is_idle.notify_all()
