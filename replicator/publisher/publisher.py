"""The publisher's thread: a window of unconfirmed messages over pika's asynchronous connection.

It never waits for one message. Entries come from the store's thread through `offer`; everything
else happens on the loop of the connection. What a turn of the loop did is reported and counted
once, at its end.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pika
from pika import exceptions, spec
from pika.channel import Channel

from replicator.domain.model import Entry, Outcomes, Returned, TableName
from replicator.domain.retry import CONNECT, PERMANENT
from replicator.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ChannelClosed,
    PermanentError,
    ReplicatorError,
    TransientError,
)
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.publisher.broker import (
    ACCESS_REFUSED,
    NOT_FOUND,
    Broker,
    Publication,
    prepare,
    translate,
)
from replicator.publisher.delivery import Delivery
from replicator.publisher.fence import fence_name, take_fence
from replicator.publisher.frames import PublishFrames
from replicator.retrying import for_ever

_TICK_SECONDS: Final = 1.0
_NO_CONFIRM_SECONDS: Final = 300.0
_CLOSE_SECONDS: Final = 1.0


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
        self._delivery = Delivery(
            publication,
            broker.exchange,
            names=names,
            report=report,
            metrics=metrics,
            clock=clock,
        )
        self._incoming: deque[Sequence[Entry]] = deque()
        self._incoming_count = 0
        self._incoming_lock = threading.Lock()
        self._connection_lock = threading.Lock()
        self._stop = threading.Event()
        self._is_idle = threading.Condition()
        self._connection: pika.SelectConnection | None = None
        self._frames: PublishFrames | None = None
        self._is_open = False
        self._was_open = False
        self._is_blocked = False
        self._is_turn_due = False
        self._ended: ReplicatorError | None = None
        self._on_confirmed: Callable[[], None] = lambda: None
        self._progress_at = time.monotonic()
        self._turned_at = time.monotonic()
        self._error: str | None = None
        self._since = clock()

    # For other threads.

    @property
    def room(self) -> int:
        """How many entries may be offered now."""
        return max(0, self._delivery.window.room - self._incoming_count)

    def offer(self, entries: Sequence[Entry]) -> None:
        """Take committed entries, in the order of their numbers; never waits."""
        with self._incoming_lock:
            self._incoming.append(entries)
            self._incoming_count += len(entries)
        self._call_soon(self._turn)

    def status(self) -> PublisherStatus:
        """Return what it is like now."""
        return PublisherStatus(
            self._is_open,
            self._is_blocked,
            self._delivery.window.in_flight,
            self._delivery.window.buffered + self._incoming_count,
            self._delivery.window.refused,
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
            while not (self._delivery.window.is_empty and not self._incoming_count):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._is_open:
                    return False
                self._is_idle.wait(min(remaining, 0.1))
        return True

    def stop(self) -> None:
        """End `run` soon; what is not confirmed stays in the outbox. Safe to repeat."""
        self._stop.set()
        self._call_soon(self._close)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        """Run something on the connection's loop, if there is one."""
        # Critical section: a loop that was closed takes no callbacks, and the store's thread
        # must not fail for it.
        with self._connection_lock:
            if self._connection is not None:
                self._connection.ioloop.add_callback_threadsafe(callback)

    # The loop.

    def run(self) -> None:
        """Keep a connection open and publish on it until stopped.

        Raises:
            PermanentError: when it occurs before the broker was ever reached in this process.
                Later the same error is retried slowly.
        """
        retrying = for_ever(
            self._stop,
            is_retried=lambda err: (
                isinstance(err, TransientError)
                or (isinstance(err, PermanentError) and self._was_open)
            ),
            wait=lambda err: (PERMANENT if isinstance(err, PermanentError) else CONNECT).wait(),
            note=self._note,
        )
        try:
            for attempt in retrying:
                with attempt:
                    self._session(attempt.retry_state)
        except ReplicatorError:
            if not self._stop.is_set():
                raise

    def _note(self, err: BaseException) -> None:
        text = str(err)
        if text != self._error:
            self._log.warning(
                "rabbitmq is not available, retrying", error=text, hint=getattr(err, "hint", None)
            )
        self._error = text

    def _session(self, retry_state: Any) -> None:
        """Publish over one connection until it ends.

        Raises:
            BrokerUnavailable, ChannelClosed, BrokerRefused: why it ended, unless it was stopped.
        """
        if self._stop.is_set():
            return  # stopped while it waited for this attempt
        self._turned_at = time.monotonic()
        chosen = prepare(self._broker)
        self._ended = None
        connection = pika.SelectConnection(
            chosen,
            on_open_callback=self._on_connected,
            on_open_error_callback=self._on_not_connected,
            on_close_callback=self._on_disconnected,
        )

        def it_works() -> None:
            retry_state.attempt_number = 1

        self._on_confirmed = it_works
        self._connection = connection
        try:
            # Race: `stop` may have come before there was a loop that it could call.
            if not self._stop.is_set():
                connection.ioloop.start()
        finally:
            with self._connection_lock:
                self._connection = None
            self._mark_lost()
            connection.ioloop.close()
        ended: ReplicatorError | None = self._ended
        if ended is not None and not self._stop.is_set():
            raise ended

    def _mark_lost(self) -> None:
        self._mark_not_open()
        self._is_blocked = self._is_turn_due = False
        self._metrics.connected.labels("rabbitmq").set(0)
        self._metrics.broker_blocked.set(0)
        self._delivery.window.lost()
        self._flush()

    def _mark_not_open(self) -> None:
        if self._is_open:
            self._is_open = False
            self._since = self._clock()

    def _end(self, error: ReplicatorError) -> None:
        """End the session; the first reason is the one that counts."""
        if self._ended is None:
            self._ended = error
        self._mark_not_open()
        connection = self._connection
        if connection is None:
            return
        if connection.is_open:
            self._hang_up(connection)
        elif connection.is_closed:
            connection.ioloop.stop()

    def _close(self) -> None:
        self._mark_not_open()
        connection = self._connection
        if connection is None:
            return
        if connection.is_open:
            self._hang_up(connection)
        elif not connection.is_closing:
            connection.ioloop.stop()

    @staticmethod
    def _hang_up(connection: Any) -> None:
        """Close in order, but not for ever: a blocked broker and a dead link answer no close."""

        def give_up() -> None:
            if not connection.is_closed:
                connection._adapter_disconnect_stream()  # noqa: SLF001 -- what its heartbeat calls

        connection.close()
        connection.ioloop.call_later(_CLOSE_SECONDS, give_up)

    # What pika calls.

    def _on_connected(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        take_fence(
            connection,
            fence_name(self._broker.exchange, self._outbox_id),
            on_taken=lambda: self._on_fenced(connection),
            on_failed=self._end,
        )

    def _on_fenced(self, connection: Any) -> None:
        if self._was_open:
            connection.channel(on_open_callback=self._on_channel)
        else:
            connection.channel(on_open_callback=self._try_publishing)

    def _try_publishing(self, channel: Channel) -> None:
        """Find out whether this user may publish, with a message that is taken back.

        RabbitMQ looks at the permission when a message comes, and delivers what was published
        in a transaction only when it is committed.
        """

        def may_publish(_frame: Any) -> None:
            channel.close()
            channel.connection.channel(on_open_callback=self._on_channel)

        channel.add_on_close_callback(self._on_channel_closed)
        channel.tx_select()
        channel.basic_publish(self._broker.exchange, self._delivery.any_routing_key(), b"")
        channel.tx_rollback(may_publish)

    def _on_not_connected(self, connection: Any, error: str | BaseException) -> None:
        cause = error if isinstance(error, BaseException) else BrokerUnavailable(error)
        self._ended = translate(cause, self._broker.hosts[0][0])
        connection.ioloop.stop()

    def _on_disconnected(self, connection: Any, error: BaseException) -> None:
        # Race: the loop may turn once more before it stops, and pika fails to write then.
        self._mark_not_open()
        if self._ended is None:
            self._ended = BrokerUnavailable(f"the connection to RabbitMQ was lost: {error}")
        connection.ioloop.stop()

    def _on_channel(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._begin(channel))

    def _begin(self, channel: Channel) -> None:
        """Publish: the channel confirms from now on, counting from 1."""
        connection = self._connection
        if connection is None or self._stop.is_set():
            return
        self._frames = PublishFrames(
            channel=channel.channel_number,
            frame_max=connection.params.frame_max,
            exchange=self._broker.exchange,
            outbox_id=self._outbox_id,
            is_persistent=self._publication.is_persistent,
        )
        self._is_open = True
        if self._was_open:
            self._metrics.reconnects.labels("rabbitmq").inc()
        self._was_open = True
        self._error = None
        self._since = self._clock()
        self._progress_at = time.monotonic()
        self._metrics.connected.labels("rabbitmq").set(1)
        self._log.info("publishing", host=connection.params.host, exchange=self._broker.exchange)
        self._turn()
        self._tick()

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._is_blocked = True
        self._since = self._clock()
        self._metrics.broker_blocked.set(1)
        self._log.warning(
            "rabbitmq blocks publishers, changes are kept in the outbox",
            reason=frame.method.reason,
        )

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self._is_blocked = False
        self._since = self._clock()
        self._progress_at = time.monotonic()
        self._metrics.broker_blocked.set(0)
        self._log.info("rabbitmq takes messages again")
        self._turn()

    def _on_channel_closed(self, _channel: Channel, error: BaseException) -> None:
        if not isinstance(error, exceptions.ChannelClosedByBroker):
            return  # the connection goes as well, and says why
        code, text = error.reply_code, error.reply_text
        if code == ACCESS_REFUSED:
            self._end(
                BrokerRefused(
                    f"RabbitMQ refuses to take messages: {text}",
                    hint="grant write permission on the exchange",
                )
            )
            return
        if code != NOT_FOUND:
            self._delivery.suspect(text)
        self._end(ChannelClosed(f"RabbitMQ closed the channel: {code} {text}"))

    # A turn of the loop.

    def _turn_soon(self) -> None:
        """Let one turn follow, however many confirms came in together."""
        if not self._is_turn_due and self._connection is not None:
            self._is_turn_due = True
            self._connection.ioloop.call_later(0, self._turn)

    def _tick(self) -> None:
        """Turn at least once a second: retries fall due, and a silent broker is noticed."""
        connection = self._connection
        if not self._is_open or connection is None:
            return
        now = time.monotonic()
        if not self._delivery.window.in_flight or self._is_blocked:
            self._progress_at = now
        elif now - self._progress_at > _NO_CONFIRM_SECONDS:
            self._end(
                BrokerUnavailable(
                    f"RabbitMQ has confirmed nothing for {_NO_CONFIRM_SECONDS:.0f} seconds"
                )
            )
            return
        self._turn()
        next_retry_at = self._delivery.window.next_retry_at
        delay = _TICK_SECONDS
        if next_retry_at is not None:
            delay = min(delay, max(0.01, next_retry_at - now))
        connection.ioloop.call_later(delay, self._tick)

    def _turn(self) -> None:
        """Take in what was offered, report what is settled, publish what may go."""
        self._is_turn_due = False
        self._turned_at = time.monotonic()
        self._accept()
        self._flush()
        if self._is_open and not self._is_blocked:
            self._publish()

    def _accept(self) -> None:
        with self._incoming_lock:
            batches = list(self._incoming)
            self._incoming.clear()
        for entries in batches:
            self._delivery.accept(entries)
        # Critical section: the store's thread adds to the count at the same time. A lost update
        # would leave too little room for ever.
        with self._incoming_lock:
            self._incoming_count -= sum(map(len, batches))

    def _publish(self) -> None:
        connection, frames = self._connection, self._frames
        if connection is not None and frames is not None:
            for write in self._delivery.take(frames):
                self._write(connection, write)

    def _on_return(
        self, _channel: Channel, method: spec.Basic.Return, properties: Any, _body: bytes
    ) -> None:
        reply = Returned(int(method.reply_code or 0), str(method.reply_text))
        self._delivery.on_return(properties.message_id, reply)

    def _on_confirm(self, frame: Any) -> None:
        self._progress_at = time.monotonic()
        self._delivery.on_confirm(frame.method)
        self._turn_soon()

    @staticmethod
    def _write(connection: Any, joined: bytes) -> None:
        # pika has no public way to send frames that are already made; this is what its own
        # publish ends in, and it keeps the byte count that heartbeats look at.
        connection._output_marshaled_frames([joined])  # noqa: SLF001

    def _flush(self) -> None:
        if self._delivery.flush():
            self._on_confirmed()
        if self._delivery.window.is_empty:
            with self._is_idle:
                self._is_idle.notify_all()
