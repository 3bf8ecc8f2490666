"""One connection to RabbitMQ with one confirming channel, on a loop of its own.

Opens in steps: the connection, the fence, at first a look whether this user may publish, the
channel with confirms. Says why it ended. Knows nothing of entries.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import pika
from pika import exceptions, spec
from pika.channel import Channel

from replicator.domain.model import Returned
from replicator.errors import BrokerUnavailable, ChannelClosed, ReplicatorError
from replicator.publisher import driver
from replicator.publisher.answers import is_lost_socket, reason_of, translate
from replicator.publisher.connection_state import ConnectionState
from replicator.publisher.fence import take_fence
from replicator.publisher.refusals import ACCESS_REFUSED

_CLOSE_SECONDS: Final = 1.0
_OPEN_SECONDS: Final = 30.0
# AMQP 0-9-1, section 1.2: content too large, precondition failed (RabbitMQ's own limit of size),
# frame, syntax and command errors. Others, such as 541 internal error, are not the message's fault.
_FOR_WHAT_WAS_SENT: Final = frozenset({311, 406, 501, 502, 503})


class LinkEvents(Protocol):
    """What a link reports, always on its loop's thread."""

    def on_open(self, link: "Link", channel: int, frame_max: int) -> None:
        """Take note that the channel confirms from now on, counting from 1."""
        ...

    def on_return(self, message_id: str, reply: Returned) -> None:
        """Take a message that no queue took."""
        ...

    def on_confirm(self, method: spec.Basic.Ack | spec.Basic.Nack) -> None:
        """Take a confirm or a nack."""
        ...

    def on_rejected(self, text: str) -> None:
        """Take note that the channel was closed for something that was published."""
        ...


class Link:
    """A connection; `run` is its loop and returns when it has ended."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        state: ConnectionState,
        events: LinkEvents,
        *,
        fence: str,
        probes: Sequence[tuple[str, str]],
    ) -> None:
        """Begin to connect; nothing happens before `run`.

        Args:
            parameters: which broker.
            state: keeps whether it is blocked and whether it has ended.
            events: hears that it is open, and what becomes of messages.
            fence: the name of the exclusive queue that comes first.
            probes: exchanges and routing keys to find out with whether this user may publish.
        """
        self.host: Final = f"{parameters.host}:{parameters.port}"
        self._state = state
        self._events = events
        self._fence = fence
        self._probes = probes
        self._error: ReplicatorError | None = None
        self._is_ready = False
        self._connection: Any = pika.SelectConnection(
            parameters,
            on_open_callback=self._on_connected,
            on_open_error_callback=self._on_not_connected,
            on_close_callback=self._on_disconnected,
        )

    def run(self) -> None:
        """Run the loop until the connection has ended.

        Raises:
            BrokerUnavailable, ChannelClosed, BrokerRefused: why, unless it was hung up without
                an error.
        """
        try:
            self._connection.ioloop.start()
        except ValueError as err:
            if not is_lost_socket(err):
                raise
            self._error = self._error or translate(err, self.host)
        finally:
            self._state.ended()
            self._connection.ioloop.close()
        if self._error is not None:
            raise self._error

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run something on the loop; from any thread. Nothing happens when the loop has ended."""
        self._connection.ioloop.add_callback_threadsafe(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run something on the loop after a while; on the loop's thread only."""
        self._connection.ioloop.call_later(seconds, callback)

    def call_when_sent(self, callback: Callable[[], None]) -> None:
        """Run something once the socket has what was written, as far as it takes it."""
        # pika sends when its loop goes on: before the second callback from now.
        self.call_soon(lambda: self.call_soon(callback))

    def write(self, frames: bytes) -> None:
        """Send frames that are already made, while it is open; on the loop's thread only."""
        driver.send(self._connection, frames)

    def hang_up(self, error: ReplicatorError | None = None) -> None:
        """End the connection in order; the first error that is given is the one that counts."""
        self._error = self._error or error
        self._state.ended()
        connection = self._connection
        if not connection.is_open:
            # pika 1.4 fails when it is to close a connection that it is opening. Only a process
            # that ends does so, and its socket goes with it.
            if not connection.is_closing:
                connection.ioloop.stop()
            return

        def give_up() -> None:
            # A blocked broker and a dead link answer no close.
            if not connection.is_closed:
                driver.close_socket(connection)

        connection.close()
        connection.ioloop.call_later(_CLOSE_SECONDS, give_up)

    # What pika calls.

    def _on_connected(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(
            lambda _connection, frame: self._state.blocked(frame.method.reason)
        )
        connection.add_on_connection_unblocked_callback(lambda *_: self._state.unblocked())
        connection.ioloop.call_later(_OPEN_SECONDS, self._expect_ready)
        take_fence(
            connection,
            self._fence,
            where=self.host,
            on_taken=self._on_fenced,
            on_failed=self.hang_up,
        )

    def _expect_ready(self) -> None:
        """Give the host up if it has not answered the steps of the opening; pika never would.

        A node that waits for another one of its cluster answers heartbeats and nothing else. One
        that blocks publishers has said so, and will go on.
        """
        if self._is_ready or not self._connection.is_open:
            return
        if self._state.is_blocked:
            self.call_later(_OPEN_SECONDS, self._expect_ready)
            return
        text = f"RabbitMQ at {self.host} gave no answer in {_OPEN_SECONDS:g} seconds"
        self.hang_up(BrokerUnavailable(text))

    def _on_not_connected(self, connection: Any, error: str | BaseException) -> None:
        cause = error if isinstance(error, BaseException) else BrokerUnavailable(error)
        self._error = self._error or translate(cause, self.host)
        connection.ioloop.stop()

    def _on_disconnected(self, connection: Any, error: BaseException) -> None:
        # Race: the loop may turn once more before it stops, and pika fails to write then.
        self._state.ended()
        if not isinstance(error, exceptions.ConnectionClosedByClient):
            lost = BrokerUnavailable(f"the connection to RabbitMQ was lost: {reason_of(error)}")
            self._error = self._error or lost
        connection.ioloop.stop()

    def _on_fenced(self) -> None:
        step = self._try_publishing if self._probes else self._on_channel
        self._connection.channel(on_open_callback=step)

    def _try_publishing(self, channel: Channel) -> None:
        """Find out whether this user may publish, with messages that are taken back.

        RabbitMQ looks at the permission when a message comes, and delivers what was published
        in a transaction only when it is committed.
        """

        def may_publish(_frame: Any) -> None:
            channel.close()
            self._connection.channel(on_open_callback=self._on_channel)

        channel.add_on_close_callback(self._on_channel_closed)
        channel.tx_select()
        for exchange, routing_key in self._probes:
            channel.basic_publish(exchange, routing_key, b"")
        channel.tx_rollback(may_publish)

    def _on_channel(self, channel: Channel) -> None:
        def begin(_frame: Any) -> None:
            self._is_ready = True
            self._events.on_open(self, channel.channel_number, self._connection.params.frame_max)

        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(
            lambda frame: self._events.on_confirm(frame.method), callback=begin
        )

    def _on_return(
        self, _channel: Channel, method: spec.Basic.Return, properties: Any, _body: bytes
    ) -> None:
        reply = Returned(int(method.reply_code or 0), str(method.reply_text))
        self._events.on_return(properties.message_id, reply)

    def _on_channel_closed(self, _channel: Channel, error: BaseException) -> None:
        if not isinstance(error, exceptions.ChannelClosedByBroker):
            return  # the connection goes as well, and says why
        code, text = error.reply_code, error.reply_text
        if code == ACCESS_REFUSED:
            self.hang_up(translate(error, self.host))
            return
        if code in _FOR_WHAT_WAS_SENT:
            self._events.on_rejected(text)
        self.hang_up(ChannelClosed(f"RabbitMQ closed the channel: {code} {text}"))
