"""The tutorial's listener: an exclusive queue of its own, bound to the exchange.

For looking at messages. It acknowledges by itself, and what comes while it does not run is not
kept: a consumer that must miss nothing has a durable queue.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pika import exceptions

from replicator.publisher import driver
from replicator.publisher.answers import translate
from replicator.publisher.broker import Broker, connect
from replicator.publisher.refusals import ACCESS_REFUSED, differing
from replicator.publisher.topology import Topology, missing_exchange

# So often the wait for a message is left, so that a signal is noticed on every platform.
_POLL_SECONDS: Final = 1.0


class Message(NamedTuple):
    """A message as it arrived; anybody may have published it."""

    routing_key: str
    message_id: str | None
    type: str | None
    timestamp: int | None  # seconds since the epoch, or whatever the publisher took for that
    headers: Mapping[str, Any]
    body: bytes


def listen(broker: Broker, bindings: Sequence[str]) -> Generator[Message | None]:
    """Yield None once the queue is bound, then each message as it comes, without an end.

    Raises:
        BrokerRefused: no permission, or the exchange cannot be declared and does not exist.
        BrokerUnavailable: no host answered, or the connection was lost.
    """
    driver.read_any_header()
    connection, chosen = connect(broker)
    is_interrupted = False
    try:
        _find_exchange(Topology(connection, broker), broker.exchange)
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for binding in bindings:
            channel.queue_bind(queue, broker.exchange, binding)
        yield None
        consumed = channel.consume(queue, auto_ack=True, inactivity_timeout=_POLL_SECONDS)
        for method, properties, body in consumed:
            if method is not None and properties is not None:
                yield Message(
                    _text(method.routing_key) or "",
                    _text(properties.message_id),
                    _text(properties.type),
                    properties.timestamp,
                    properties.headers or {},
                    body or b"",
                )
    except (exceptions.AMQPError, OSError) as err:
        raise translate(err, f"{chosen.host}:{chosen.port}") from err
    except KeyboardInterrupt:
        # pika cannot close a connection whose loop was left in the middle; the end of the
        # process does.
        is_interrupted = True
        raise
    finally:
        if connection.is_open and not is_interrupted:
            connection.close()


def _text(value: Any) -> str | None:
    """Return a short string, which pika gives as bytes if it is not UTF-8."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _find_exchange(topology: Topology, name: str) -> None:
    """Declare the exchange, or use the one that is there; a listener need not mind its type."""
    try:
        topology.declare_exchange(name)
    except exceptions.ChannelClosedByBroker as err:
        if differing(err.reply_code, err.reply_text):
            return
        if err.reply_code != ACCESS_REFUSED:
            raise
        if not topology.has_exchange(name):
            raise missing_exchange(name) from err
