"""What must be there at RabbitMQ: exchanges, queues and bindings; declared, or used as they are.

What the settings name has to be so: an exchange's type and durability, a queue's arguments, its
type if it is given, and that it is durable. In all else what exists may be as its owner made it (an
alternate exchange, a dead letter exchange, auto-delete): it is used, and the difference is told.
`replicator check` looks with the same functions.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import pika
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from replicator.errors import BrokerRefused
from replicator.publisher import driver
from replicator.publisher.answers import translate
from replicator.publisher.broker import Broker, DeclaredQueue, connect
from replicator.publisher.refusals import ACCESS_REFUSED, current, differing, is_missing

_ANSWER_SECONDS: Final = 30.0
_RESERVED: Final = "amq."

Arguments = Mapping[str, Any]


def prepare(broker: Broker, tell: Callable[[str], None]) -> pika.ConnectionParameters:
    """Declare the exchanges and the queues, and say which host can be published to.

    Safe to repeat: declaring what exists as it should be changes nothing.

    Args:
        broker: where, and what must be there.
        tell: takes in words what is used although it is not as the settings would make it.

    Raises:
        BrokerRefused: wrong credentials, no permission, something is there that does not serve.
        BrokerUnavailable: no host answered, a limit is reached, or the connection was lost.
    """
    connection, chosen = connect(broker)
    # A node that waits for another one of its cluster answers heartbeats and nothing else.
    driver.give_up_after(connection, _ANSWER_SECONDS)
    try:
        for difference in Topology(connection, broker).declare():
            tell(difference)
    except (exceptions.AMQPError, OSError) as err:
        raise translate(err, f"{chosen.host}:{chosen.port}") from err
    finally:
        # A connection that is lost right now has answered all that was asked of it.
        with contextlib.suppress(exceptions.AMQPError, OSError):
            if connection.is_open:
                connection.close()
    return chosen


class Topology:
    """Declares on one connection, with one channel at a time: a user may have a limit of them."""

    def __init__(self, connection: pika.BlockingConnection, broker: Broker) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._broker = broker

    def declare(self) -> list[str]:
        """Declare and bind everything; safe to repeat.

        Returns:
            In words what is used although it is not as the settings would make it.

        Raises:
            BrokerRefused: something is there that does not serve.
            pika.exceptions.AMQPError: whatever else RabbitMQ refuses.
        """
        broker = self._broker
        names = dict.fromkeys((broker.exchange, *broker.exchanges))
        told = [self.exchange(name) for name in names]
        for queue in broker.queues:
            told.append(self.queue(queue))
            with self._connection.channel() as channel:
                for binding in queue.bindings:
                    channel.queue_bind(queue.name, broker.exchange, binding)
        return list(filter(None, told))

    def exchange(self, name: str) -> str | None:
        """Declare an exchange, or use the one that is there.

        Returns:
            In what it is other than the settings would make it, in words; empty if in nothing,
            None if this user may not see that.

        Raises:
            BrokerRefused: it does not serve, or is missing and this user may not declare it.
            pika.exceptions.AMQPError: whatever else RabbitMQ refuses.
        """
        try:
            self.declare_exchange(name)
        except exceptions.ChannelClosedByBroker as err:
            if err.reply_code == ACCESS_REFUSED:
                # A user without the right to configure may still publish to one that exists.
                if self.has_exchange(name):
                    return None
                raise missing_exchange(name) from err
            difference = differing(err.reply_code, err.reply_text)
            if not difference:
                raise
            if difference in ("type", "durable"):
                raise _another_exchange(self._broker, name, err.reply_text) from err
            return f"exchange {name!r} is used as it is: {err.reply_text}"
        return ""

    def queue(self, queue: DeclaredQueue) -> str | None:
        """Declare a queue, or use the one that is there, as `exchange` does; it is not bound."""
        told = ""
        taken_over: dict[str, Any] = {}
        while True:
            try:
                self.declare_queue(queue, taken_over)
            except exceptions.ChannelClosedByBroker as err:
                if err.reply_code == ACCESS_REFUSED:
                    if self.has_queue(queue.name):
                        return None
                    raise missing_queue(queue.name) from err
                difference = differing(err.reply_code, err.reply_text)
                if not difference:
                    raise
                if difference in queue.named:
                    raise BrokerRefused(
                        f"queue {queue.name!r} exists and is another: {err.reply_text}",
                        hint="make its entry in rabbitmq.queues match it, or delete the queue",
                    ) from err
                told = told or f"queue {queue.name!r} is used as it is: {err.reply_text}"
                # RabbitMQ names one difference. Another may be in what the settings name.
                value = current(err.reply_text)
                if value is None or difference in taken_over:
                    return told
                taken_over[difference] = value
            else:
                return told

    def declare_exchange(self, name: str, more: Arguments = {}) -> None:  # noqa: B006 - not changed
        """Declare an exchange as the settings say, with more arguments."""
        with self._connection.channel() as channel:
            channel.exchange_declare(
                name,
                exchange_type=self._broker.exchange_type,
                durable=self._broker.is_exchange_durable,
                arguments=dict(more),
            )

    def declare_queue(self, queue: DeclaredQueue, more: Arguments = {}) -> None:  # noqa: B006 - not changed
        """Declare a queue as the settings say, with more arguments."""
        with self._connection.channel() as channel:
            channel.queue_declare(
                queue.name,
                durable=True,
                arguments={"x-queue-type": queue.type, **queue.arguments, **more},
            )

    def has_exchange(self, name: str) -> bool:
        """Return whether an exchange exists; takes no permission."""
        return self._has(lambda channel: channel.exchange_declare(name, passive=True))

    def has_queue(self, name: str) -> bool:
        """Return whether a queue exists; takes no permission."""
        return self._has(lambda channel: channel.queue_declare(name, passive=True))

    def _has(self, declare_passively: Callable[[BlockingChannel], object]) -> bool:
        try:
            with self._connection.channel() as channel:
                declare_passively(channel)
        except exceptions.ChannelClosedByBroker as err:
            if not is_missing(err.reply_code, err.reply_text):
                raise
            return False
        return True


def missing_exchange(name: str) -> BrokerRefused:
    """Return the error for an exchange that does not exist and cannot be declared by this user."""
    if name.startswith(_RESERVED):
        return BrokerRefused(
            f"exchange {name!r} does not exist, and RabbitMQ keeps names that begin with amq. for "
            "itself",
            hint="choose another name; amq.topic, amq.direct, amq.fanout and amq.headers exist",
        )
    return _missing(f"exchange {name!r}")


def missing_queue(name: str) -> BrokerRefused:
    """Return the error for a queue that does not exist and cannot be declared by this user."""
    return _missing(f"queue {name!r}")


def _missing(what: str) -> BrokerRefused:
    return BrokerRefused(
        f"RabbitMQ gives no permission: {what} does not exist, and this user may not declare it",
        hint="declare it, or grant configure permission on it with rabbitmqctl set_permissions",
    )


def _another_exchange(broker: Broker, name: str, text: str) -> BrokerRefused:
    setting = "rabbitmq.exchange" if name == broker.exchange else "tables[].exchange"
    delete = "" if name.startswith(_RESERVED) else ", or delete the exchange"
    return BrokerRefused(
        f"exchange {name!r} exists and is another: {text}",
        hint=f"set {setting}, rabbitmq.exchange_type or exchange_durable to match it{delete}",
    )
