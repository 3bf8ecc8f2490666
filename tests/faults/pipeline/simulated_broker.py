"""RabbitMQ as far as a publisher can see it: frames in, confirms out, in every order it may use.

It parses what is written with pika's own parser. A connection that the client has lost goes on
here until the broker notices, and what it still holds is enqueued meanwhile.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from pika import frame, spec

from replicator.domain.properties import ORIGIN_HEADER, entry_number

MAX_MESSAGE_BYTES = 250
_NO_ROUTE = (312, "NO_ROUTE")
_TOO_LARGE = (406, "PRECONDITION_FAILED - message size is larger than configured max size")


class Message(NamedTuple):
    """A published message, put together from its frames."""

    number: int
    op: str
    routing_key: str
    is_mandatory: bool
    is_persistent: bool
    origin: str
    body: bytes


Reply = tuple[str, Any]


class BrokerConnection:
    """The broker's end of a connection with one confirming channel."""

    def __init__(self) -> None:
        self.is_client_gone = False
        self.is_channel_closed = False
        self.replies: deque[Reply] = deque()
        self.unconfirmed: list[int] = []
        self.unenqueued: set[int] = set()
        self._buffer = bytearray()
        self._next_tag = 1

    @property
    def has_answered(self) -> bool:
        """Whether everything that was written has its answer, and the client has read it."""
        return not (self._buffer or self.unconfirmed or self.replies or self.is_channel_closed)

    def receive(self, written: bytes) -> None:
        self._buffer += written

    def cut(self, share: float) -> None:
        """Lose the end of what is on the way, in the middle of a message or not."""
        del self._buffer[round(len(self._buffer) * share) :]

    def next_message(self) -> Message | None:
        """Take one whole message out of the buffer."""
        frames: list[Any] = []
        used = 0
        missing = 1
        while missing > 0:
            length, found = frame.decode_frame(bytes(self._buffer[used:]))
            if found is None:
                return None
            used += length
            frames.append(found)
            if isinstance(found, frame.Header):
                missing = found.body_size
            elif isinstance(found, frame.Body):
                missing -= len(found.fragment)
        del self._buffer[:used]
        return _message(frames)

    def next_tag(self) -> int:
        self._next_tag += 1
        return self._next_tag - 1


def _message(frames: list[Any]) -> Message:
    method, header, *bodies = frames
    properties = header.properties
    return Message(
        entry_number(properties.message_id),
        properties.type,
        method.method.routing_key,
        method.method.mandatory,
        properties.delivery_mode == 2,
        (properties.headers or {}).get(ORIGIN_HEADER, "feed"),
        b"".join(each.fragment for each in bodies),
    )


class SimulatedBroker:
    """Connections, one queue that is the log of all messages, and what was handed back."""

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self.connections: list[BrokerConnection] = []
        self.log: list[Message] = []
        self.returned: set[int] = set()
        self.too_large: set[int] = set()
        self.is_blocked = False
        self.is_routable = True
        self._on_message = on_message

    def accept(self) -> BrokerConnection:
        connection = BrokerConnection()
        self.connections.append(connection)
        return connection

    def take(self, connection: BrokerConnection, count: int, *, refused: bool = False) -> None:
        """Take messages off a connection; ``refused`` ones are nacked before they are enqueued."""
        for _ in range(count):
            if self.is_blocked or connection.is_channel_closed:
                return
            message = connection.next_message()
            if message is None:
                return
            self._on_message(message)
            if len(message.body) > MAX_MESSAGE_BYTES:
                self.too_large.add(message.number)
                connection.is_channel_closed = True
                connection.replies.append(("closed", _TOO_LARGE))
                return
            tag = connection.next_tag()
            connection.unconfirmed.append(tag)
            if refused:
                connection.unenqueued.add(tag)
            elif self.is_routable:
                self.log.append(message)
            else:
                self.returned.add(message.number)
                connection.replies.append(("return", (message.number, _NO_ROUTE)))

    def confirm(self, connection: BrokerConnection, position: int, *, multiple: bool) -> None:
        """Answer for one message, or for all up to it: a nack where one was not enqueued."""
        if not connection.unconfirmed:
            return
        place = position % len(connection.unconfirmed)
        first = 0 if multiple else place
        tags = connection.unconfirmed[first : place + 1]
        is_refused = any(tag in connection.unenqueued for tag in tags)
        del connection.unconfirmed[first : place + 1]
        answer = spec.Basic.Nack if is_refused else spec.Basic.Ack
        connection.replies.append(("confirm", answer(tags[-1], multiple)))

    def notice_the_end(self, connection: BrokerConnection, count: int) -> None:
        """Enqueue some of what a lost connection still holds, then end it."""
        self.take(connection, count)
        self.connections.remove(connection)
