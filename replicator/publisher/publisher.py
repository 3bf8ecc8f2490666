"""The publisher's thread: a window of unconfirmed messages over pika's asynchronous connection.

It never waits for one message. Entries come from the store through `offer`; everything else happens
on the loop of the connection. What a turn of the loop did is reported and counted once, at its end.

Nothing is remembered past a connection. When a channel opens, and when the store says `forget`, the
publisher asks for a new reading of the outbox (`replicator.domain.window`), by a report that comes
after all others: what they settled or parked is committed before the outbox is read.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from pika import spec

from replicator.domain.model import Entry, Outcomes, Returned, TableName
from replicator.errors import BrokerUnavailable
from replicator.fault_points import FaultPoint, reach, reach_later
from replicator.metrics import Metrics
from replicator.publisher.broker import Broker, Publication
from replicator.publisher.calls import PendingCalls
from replicator.publisher.connection_state import ConnectionState
from replicator.publisher.delivery import Delivery
from replicator.publisher.fence import fence_name
from replicator.publisher.frames import PublishFrames
from replicator.publisher.link import Link
from replicator.publisher.topology import prepare
from replicator.publisher.watch import BrokerWatch
from replicator.retry import Retrying

# How late a refused entry may be retried.
_TICK_SECONDS: Final = 0.1
_DRAIN_LOOK_SECONDS: Final = 0.02


class PublisherStatus(NamedTuple):
    """The state of the publisher."""

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
            metrics: count what is published.
            clock: seconds since the epoch.
        """
        self._broker = broker
        self._publication = publication
        self._outbox_id = outbox_id
        self._delivery = Delivery(
            publication, broker.exchange, names=names, report=report, metrics=metrics, clock=clock
        )
        self._calls = PendingCalls()
        self._state = ConnectionState(metrics, clock)
        self._watch = BrokerWatch()
        self._stop = threading.Event()
        self._link: Link | None = None
        self._frames: PublishFrames | None = None
        self._is_turn_due = False
        self._retrying = Retrying(
            self._stop, note=self._state.failed, is_patient=lambda: self._state.was_open
        )
        self._turned_at = time.monotonic()

    # For other threads.

    @property
    def room(self) -> int:
        """How many entries may be offered now; 0 while no channel is open."""
        if not self._state.is_open:
            return 0
        return self._delivery.window.room_beside(self._calls.count, self._calls.size)

    def offer(self, entries: Sequence[Entry], reading: int) -> None:
        """Take committed entries of a reading, in the order of their numbers; never waits."""
        self._hand_in(partial(self._delivery.accept, entries, reading), entries)

    def forget(self) -> None:
        """Forget all but what is in flight, and ask for a new reading; never waits."""
        self._hand_in(self._forget)

    def _hand_in(self, call: Callable[[], object], entries: Sequence[Entry] = ()) -> None:
        # A link that opens takes in what came before it.
        if self._calls.put(call, entries) and (link := self._link) is not None:
            link.call_soon(self._turn)

    def status(self) -> PublisherStatus:
        """Return its present state."""
        window, state = self._delivery.window, self._state
        return PublisherStatus(
            state.is_open,
            state.is_blocked,
            window.in_flight,
            window.buffered + self._calls.count,
            window.refused,
            state.error,
            state.since,
            self._turned_at,
        )

    def drain(self, seconds: float) -> bool:
        """Wait until everything that was offered is settled. Returns whether it is.

        Gives up at once when there is no connection: then nothing can be confirmed.
        """
        window = self._delivery.window
        reading = window.reading
        deadline = time.monotonic() + seconds
        while self._state.is_open and time.monotonic() < deadline:
            # Order matters: an entry stops counting as handed in only once it is in the window.
            if not self._calls.count and window.is_empty:
                # What was forgotten meanwhile was not settled.
                return window.reading == reading
            time.sleep(_DRAIN_LOOK_SECONDS)
        return False

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

    def _session(self) -> None:
        """Publish over one connection until it ends.

        Raises:
            BrokerUnavailable, ChannelClosed, BrokerRefused: why it ended, unless it was stopped.
        """
        self._turned_at = time.monotonic()
        link = Link(
            prepare(self._broker, self._state.uses),
            self._state,
            self,
            fence=fence_name(self._broker.exchange, self._outbox_id),
            probes=[] if self._state.was_open else self._delivery.addresses.probes(),
        )
        self._link = link
        # Race: `stop` may have come before there was a link that it could hang up.
        if self._stop.is_set():
            link.call_soon(link.hang_up)
        try:
            link.run()
        finally:
            self._link = None
            self._delivery.lost()

    # What the link reports.

    def on_open(self, link: Link, channel: int, frame_max: int) -> None:
        """Publish: the channel confirms from now on."""
        if self._stop.is_set():
            return
        # What was handed in before is of a reading that is over, or asks for one that begins.
        self._calls.do()
        self._frames = PublishFrames(
            channel=channel,
            frame_max=frame_max,
            outbox_id=self._outbox_id,
            is_persistent=self._publication.is_persistent,
        )
        self._is_turn_due = False
        self._watch.begin(time.monotonic())
        # Order matters: whoever is asked for a reading must find room for it.
        self._state.opened(link.host, self._broker.exchange)
        self._delivery.begin_reading()
        self._tick()

    def on_return(self, message_id: str, reply: Returned) -> None:
        """Note that no queue took a message; its confirm follows."""
        self._delivery.on_return(message_id, reply)

    def on_confirm(self, method: spec.Basic.Ack | spec.Basic.Nack) -> None:
        """Take a confirm in; one turn follows, however many come together."""
        if isinstance(method, spec.Basic.Ack):
            self._watch.confirmed(time.monotonic())
            self._retrying.worked()
        else:
            self._watch.refused(time.monotonic())
        self._delivery.on_confirm(method)
        if not self._is_turn_due and (link := self._link) is not None:
            self._is_turn_due = True
            link.call_later(0, self._turn)

    def on_rejected(self, text: str) -> None:
        """Look for the message that RabbitMQ does not take."""
        self._delivery.suspect(text)

    # A turn of the loop.

    def _tick(self) -> None:
        """Turn now and then, and notice a broker that is silent or takes nothing."""
        link = self._link
        if not self._state.is_open or link is None:
            return
        now = time.monotonic()
        if self._state.is_blocked:
            self._watch.begin(now)
        elif text := self._watch.reason_to_leave(now, in_flight=self._delivery.window.in_flight):
            link.hang_up(BrokerUnavailable(text))
            return
        self._turn()
        link.call_later(_TICK_SECONDS, self._tick)

    def _turn(self) -> None:
        """Take in what was handed in, report what is settled, publish what may go."""
        self._is_turn_due = False
        self._turned_at = time.monotonic()
        self._calls.do()
        self._delivery.flush()
        link, frames = self._link, self._frames
        if not self._state.may_publish or link is None or frames is None:
            return
        for write in self._delivery.take(frames):
            reach(FaultPoint.BEFORE_WRITE)
            link.write(write)
            reach_later(FaultPoint.AFTER_WRITE, link.call_when_sent)

    def _forget(self) -> None:
        # Without a channel there is nothing to forget; the next one begins with a new reading.
        if self._state.is_open:
            self._delivery.forget()
