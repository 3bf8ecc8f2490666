"""The fence: nothing is published while an earlier connection of this outbox is open.

A connection can be lost here and go on at the broker: what it still holds of our bytes, in a
buffer or beyond a partition that heals, would be enqueued after the new connection has sent newer
entries, and a consumer would get an old state last (promise G3). So each connection first declares
an exclusive queue that is named for the outbox. RabbitMQ gives it to one connection at a time, and
only when the one before has ended does the next get it. It keeps two copies of one outbox, too,
from publishing at the same time.
"""

from collections.abc import Callable
from typing import Any, Final

from pika import exceptions
from pika.channel import Channel

from replicator.errors import (
    BrokerUnavailable,
    ChannelClosed,
    ReplicatorError,
    TransientError,
)
from replicator.log import get_logger
from replicator.publisher.answers import translate
from replicator.publisher.refusals import NOT_FOUND, RESOURCE_LOCKED

_MAX_NAME_BYTES: Final = 255


def fence_name(exchange: str, outbox_id: str) -> str:
    """Return the queue's name; it begins like the exchange, so that permissions cover both.

    That of an exchange such as amq.topic does not: RabbitMQ keeps such names of queues for itself.
    """
    name = f"{exchange}.replicator.{outbox_id}"
    if exchange.startswith("amq.") or len(name.encode()) > _MAX_NAME_BYTES:
        return f"replicator.{outbox_id}"
    return name


def take_fence(
    connection: Any,
    name: str,
    *,
    where: str,
    on_taken: Callable[[], None],
    on_failed: Callable[[ReplicatorError], None],
) -> None:
    """Declare the exclusive queue on a channel of its own; runs on the connection's loop.

    A user who may not declare it publishes without it: that is said in the log, and only order
    after a lost connection is weaker for it. What passes, such as a limit of queues, is waited for.
    """

    def on_open(channel: Channel) -> None:
        channel.add_on_close_callback(on_closed)
        channel.queue_declare(name, exclusive=True, callback=lambda _frame: channel.close())

    def on_closed(_channel: Channel, reason: BaseException) -> None:
        if isinstance(reason, exceptions.ChannelClosedByClient):
            on_taken()
        elif not isinstance(reason, exceptions.ChannelClosedByBroker):
            return  # the connection goes as well, and says why
        elif (error := _error_of(reason, where)) is not None:
            on_failed(error)
        else:
            get_logger("publisher").warning(
                "publishing without a fence: its queue cannot be declared",
                queue=name,
                error=reason.reply_text,
                hint="let the user configure it: then order holds after half-open links too",
            )
            on_taken()

    connection.channel(on_open_callback=on_open)


def _error_of(reason: exceptions.ChannelClosedByBroker, where: str) -> ReplicatorError | None:
    """Return why the fence cannot be had now; None when it never can."""
    if reason.reply_code == RESOURCE_LOCKED:
        return BrokerUnavailable(
            "an earlier connection of this outbox is still open at RabbitMQ",
            hint="it ends by its heartbeat; or another process has a copy of this outbox",
        )
    if reason.reply_code == NOT_FOUND:
        # The queue is on a node of the cluster that is down, and is deleted with it.
        return ChannelClosed(f"the fence is not available: {reason.reply_text}")
    error = translate(reason, where)
    return error if isinstance(error, TransientError) else None
