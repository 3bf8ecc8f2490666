"""The preflight of RabbitMQ: reachable, exchange and queues as configured, permission.

Creates nothing: declarations are passive; an active one follows only where the passive one found
something, when it can only compare, or with an argument that RabbitMQ must refuse.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

import pika
from pika import exceptions

from replicator.publisher.answers import translate
from replicator.publisher.broker import Broker, DeclaredQueue, connect
from replicator.publisher.fence import fence_name
from replicator.publisher.refusals import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED
from replicator.publisher.topology import Topology, missing_exchange, missing_queue

_IMPOSSIBLE_EXPIRATION: Final = "never"
# A number, where the name of an exchange belongs.
_IMPOSSIBLE_OF_QUEUE: Final = {"x-dead-letter-exchange": 1}
_IMPOSSIBLE_OF_EXCHANGE: Final = {"alternate-exchange": 1}
_NOBODYS_KEY: Final = "replicator.check.of.the.right.to.bind"
_ANY_OUTBOX_ID: Final = "abcdefgh"


class BrokerCheck:
    """One connection, on which the topology is looked at; `connected` makes it."""

    def __init__(self, connection: pika.BlockingConnection, broker: Broker, where: str) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._broker = broker
        self._topology = Topology(connection, broker)
        self.where: Final = where

    def exchange(self, name: str, routing_keys: Collection[str]) -> str:
        """Look at an exchange; return what was found, in words.

        Args:
            name: which.
            routing_keys: those that the service will publish with.

        Raises:
            BrokerRefused: it is of another kind, or this user may not publish to it.
        """
        with self._translated():
            if not self._topology.has_exchange(name):
                self._require_configure_exchange(name)
                self._require_write(name, routing_keys)
                return "does not exist yet: `replicator run` declares it"
            difference = self._topology.exchange(name)
            self._require_write(name, routing_keys)
        kind = f"a {self._broker.exchange_type} exchange"
        if difference is None:
            kind = "an exchange whose type cannot be seen without the right to configure it"
        told = f"; {difference}" if difference else ""
        return f"is {kind}, and takes messages of this user{told}"

    def _require_write(self, name: str, routing_keys: Collection[str]) -> None:
        """Find out whether this user may publish, without a message that anybody could receive.

        RabbitMQ looks at the permission first and then refuses the message for its expiration,
        which is not a number, so that it never gets to a queue; or for want of the exchange.
        """
        for routing_key in routing_keys:
            try:
                with self._connection.channel() as channel:
                    channel.confirm_delivery()
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
            with self._connection.channel() as channel:
                channel.queue_unbind(name, self._broker.exchange, _NOBODYS_KEY)
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
            if not self._topology.has_queue(queue.name):
                self._require_configure_queue(queue)
                return "does not exist yet: `replicator run` declares it"
            difference = self._topology.queue(queue)
        if difference is None:
            return "is a queue whose type cannot be seen without the right to configure it"
        return f"exists; {difference}" if difference else f"is a {queue.type} queue"

    def fence(self) -> str:
        """Look whether this user may declare the queue that keeps old connections away.

        If it may not, that is not an error: the service goes on without a fence.
        """
        name = fence_name(self._broker.exchange, _ANY_OUTBOX_ID)
        with self._translated():
            try:
                _expect_refused_argument(lambda: self._declare_fence(name))
            except exceptions.ChannelClosedByBroker as err:
                if err.reply_code != ACCESS_REFUSED:
                    raise
                return (
                    f"a queue such as {name} may not be declared: publishing would go without a "
                    "fence, and order after a lost connection is weaker (docs/permissions.md)"
                )
        return "may be declared"

    def _declare_fence(self, name: str) -> None:
        with self._connection.channel() as channel:
            channel.queue_declare(name, exclusive=True, arguments=_IMPOSSIBLE_OF_QUEUE)

    def _require_configure_queue(self, queue: DeclaredQueue) -> None:
        """Find out whether this user may declare a queue, without one being made.

        RabbitMQ looks at the permission first and then refuses an argument of a wrong type.
        """
        try:
            _expect_refused_argument(
                lambda: self._topology.declare_queue(queue, _IMPOSSIBLE_OF_QUEUE)
            )
        except exceptions.ChannelClosedByBroker as err:
            if err.reply_code != ACCESS_REFUSED:
                raise
            raise missing_queue(queue.name) from err

    def _require_configure_exchange(self, name: str) -> None:
        """Find out whether this user may declare the exchange, in the same way."""
        try:
            _expect_refused_argument(
                lambda: self._topology.declare_exchange(name, _IMPOSSIBLE_OF_EXCHANGE)
            )
        except exceptions.ChannelClosedByBroker as err:
            if err.reply_code != ACCESS_REFUSED:
                raise
            raise missing_exchange(name) from err

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.AMQPError, OSError) as err:
            raise translate(err, self.where) from err


def _expect_refused_argument(declare: Callable[[], object]) -> None:
    """Declare with an argument that RabbitMQ must refuse: raises what else it refuses."""
    try:
        declare()
    except exceptions.ChannelClosedByBroker as err:
        # A limit of queues, and since RabbitMQ 4 an unknown type, have the same code.
        if err.reply_code != PRECONDITION_FAILED or "invalid type" not in err.reply_text:
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
