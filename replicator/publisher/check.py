"""The preflight of RabbitMQ: reachable, exchange and queues as configured, permission.

Creates nothing: declarations are passive; an active one follows only where the passive one found
something, when it can only compare, or with an argument that RabbitMQ must refuse.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pika
from pika import exceptions

from replicator.publisher.broker import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    Broker,
    DeclaredQueue,
    another_exchange,
    connect,
    declare_exchange,
    declare_queue,
    translate,
)
from replicator.publisher.fence import fence_name

_IMPOSSIBLE_EXPIRATION: Final = "never"
_IMPOSSIBLE_ARGUMENT: Final = 1  # where the name of an exchange belongs
_NOBODYS_KEY: Final = "replicator.check.of.the.right.to.bind"
_ANY_OUTBOX_ID: Final = "abcdefgh"


class BrokerCheck:
    """One connection, on which the topology is looked at; `connected` makes it."""

    def __init__(self, connection: pika.BlockingConnection, broker: Broker, where: str) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._broker = broker
        self.where: Final = where

    def exchange(self, name: str, routing_keys: Collection[str]) -> str:
        """Look at an exchange; return what was found, in words.

        Args:
            name: which.
            routing_keys: those that the service will publish with.

        Raises:
            BrokerRefused: it is of another kind, or this user may not publish to it.
        """
        broker = self._broker
        with self._translated():
            if not self._exists(lambda channel: channel.exchange_declare(name, passive=True)):
                self._require_configure_exchange(name)
                self._require_write(name, routing_keys)
                return "does not exist yet: `replicator run` declares it"
            kind = (
                f"a {broker.exchange_type} exchange"
                if self._is_as_configured(name)
                else ("an exchange whose type cannot be seen without the right to configure it")
            )
            self._require_write(name, routing_keys)
        return f"is {kind}, and takes messages of this user"

    def _is_as_configured(self, name: str) -> bool:
        broker = self._broker
        try:
            declare_exchange(self._connection.channel(), broker, name)
        except exceptions.ChannelClosedByBroker as err:
            if err.reply_code == ACCESS_REFUSED:
                return False
            raise another_exchange(broker, name, err.reply_text) from err
        return True

    def _require_write(self, name: str, routing_keys: Collection[str]) -> None:
        """Find out whether this user may publish, without a message that anybody could receive.

        RabbitMQ looks at the permission first and then refuses the message for its expiration,
        which is not a number, so that it never gets to a queue; or for want of the exchange.
        """
        for routing_key in routing_keys:
            channel = self._connection.channel()
            channel.confirm_delivery()
            try:
                channel.basic_publish(
                    name,
                    routing_key,
                    b"",
                    pika.BasicProperties(expiration=_IMPOSSIBLE_EXPIRATION),
                )
            except exceptions.ChannelClosedByBroker as err:
                if err.reply_code not in (PRECONDITION_FAILED, NOT_FOUND):
                    raise

    def _require_bind(self, name: str) -> None:
        """Find out whether this user may bind a queue, by taking a binding away that nobody has.

        RabbitMQ wants the same rights for both, and looks at them before it looks for the queue.
        """
        try:
            self._connection.channel().queue_unbind(name, self._broker.exchange, _NOBODYS_KEY)
        except exceptions.ChannelClosedByBroker as err:
            if err.reply_code != NOT_FOUND:
                raise

    def queue(self, queue: DeclaredQueue) -> str:
        """Look at one queue of the settings; return what was found, in words.

        Raises:
            BrokerRefused: it exists and is of another kind, or this user may not use it.
        """
        with self._translated():
            if queue.bindings:
                self._require_bind(queue.name)
            if not self._exists(lambda channel: channel.queue_declare(queue.name, passive=True)):
                self._require_configure_queue(queue.name, exclusive=False)
                return "does not exist yet: `replicator run` declares it"
            declare_queue(self._connection.channel(), queue)
        return f"is a {queue.type} queue"

    def fence(self) -> str:
        """Look whether this user may declare the queue that keeps old connections away.

        If it may not, that is not an error: the service goes on without a fence.
        """
        name = fence_name(self._broker.exchange, _ANY_OUTBOX_ID)
        with self._translated():
            try:
                self._require_configure_queue(name, exclusive=True)
            except exceptions.ChannelClosedByBroker as err:
                if err.reply_code != ACCESS_REFUSED:
                    raise
                return (
                    f"a queue such as {name} may not be declared: publishing would go without a "
                    "fence, and order after a lost connection is weaker (docs/permissions.md)"
                )
        return "may be declared"

    def _require_configure_queue(self, name: str, *, exclusive: bool) -> None:
        """Find out whether this user may declare a queue, without one being made.

        RabbitMQ looks at the permission first and then refuses an argument of a wrong type.
        """
        _expect_refused_argument(
            lambda: self._connection.channel().queue_declare(
                name,
                durable=not exclusive,
                exclusive=exclusive,
                arguments={"x-dead-letter-exchange": _IMPOSSIBLE_ARGUMENT},
            )
        )

    def _require_configure_exchange(self, name: str) -> None:
        """Find out whether this user may declare the exchange, in the same way."""
        impossible = {"alternate-exchange": _IMPOSSIBLE_ARGUMENT}
        _expect_refused_argument(
            lambda: declare_exchange(self._connection.channel(), self._broker, name, impossible)
        )

    def _exists(self, declare: Any) -> bool:
        try:
            declare(self._connection.channel())
        except exceptions.ChannelClosedByBroker as err:
            if err.reply_code != NOT_FOUND:
                raise
            return False
        return True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.AMQPError, OSError) as err:
            raise translate(err, self.where) from err


def _expect_refused_argument(declare: Callable[[], object]) -> None:
    try:
        declare()
    except exceptions.ChannelClosedByBroker as err:
        if err.reply_code != PRECONDITION_FAILED:
            raise


@contextmanager
def connected(broker: Broker) -> Iterator[BrokerCheck]:
    """Connect for a check.

    Raises:
        BrokerRefused: wrong user, password or virtual host.
        BrokerUnavailable: no host answered.
    """
    connection, chosen = connect(broker)
    try:
        yield BrokerCheck(connection, broker, f"{chosen.host}:{chosen.port}")
    finally:
        if connection.is_open:
            connection.close()
