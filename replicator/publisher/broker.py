"""Reaching RabbitMQ: parameters, TLS, the topology, and what an error means."""

import contextlib
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pika
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from replicator.domain.hosts import hint_of_tls
from replicator.domain.model import TableName
from replicator.domain.routing import RoutingKey
from replicator.errors import BrokerRefused, BrokerUnavailable, ReplicatorError
from replicator.publisher import driver

_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 30.0
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    # Milliseconds that sent bytes may stay unacknowledged before the kernel gives up.
    "TCP_USER_TIMEOUT": 30_000,
}

_HINT_OF_LINK: Final = "look at RabbitMQ's log, and at the network in between"
_GUESSED: Final = (
    exceptions.IncompatibleProtocolError,
    exceptions.ProbableAuthenticationError,
    exceptions.ProbableAccessDeniedError,
)

# AMQP 0-9-1, section 1.2, and RabbitMQ's use of it.
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
COMMAND_INVALID: Final = 503
NOT_ALLOWED: Final = 530


class _Answer(NamedTuple):
    """What an error means that RabbitMQ closes a channel or a connection with."""

    kind: type[ReplicatorError]
    words: str
    hint: str
    sign: str = ""  # only where the broker's text has this


_ANSWERS: Final = {
    NOT_ALLOWED: _Answer(
        BrokerRefused,
        "refuses the virtual host",
        "check the path of rabbitmq.url and the user's permissions",
    ),
    ACCESS_REFUSED: _Answer(
        BrokerRefused, "gives no permission", "grant it with rabbitmqctl set_permissions"
    ),
    COMMAND_INVALID: _Answer(
        BrokerRefused,
        "does not know rabbitmq.exchange_type",
        "set another rabbitmq.exchange_type, or enable the plugin that brings it",
        sign="exchange type",
    ),
    RESOURCE_LOCKED: _Answer(
        BrokerUnavailable,
        "keeps the queue for another connection alone",
        "end that connection, or name another queue",
    ),
}
"""By reply code."""


class DeclaredQueue(NamedTuple):
    """A queue that is declared at start, durable."""

    name: str
    bindings: Sequence[str]
    type: str


class Broker(NamedTuple):
    """How to reach RabbitMQ and what must be there."""

    hosts: Iterable[tuple[str, int]]
    user: str | None  # None: the client certificate says who it is
    password: str
    virtual_host: str
    exchange: str
    is_tls: bool = False
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    exchange_type: str = "topic"
    is_exchange_durable: bool = True
    queues: Sequence[DeclaredQueue] = ()
    exchanges: Sequence[str] = ()  # further ones, of the same type and durability
    heartbeat_seconds: int = 20

    def __repr__(self) -> str:
        """Show it without the password."""
        return (
            f"Broker(hosts={self.hosts!r}, user={self.user!r}, "
            f"virtual_host={self.virtual_host!r}, exchange={self.exchange!r})"
        )


class Publication(NamedTuple):
    """How messages look and what becomes of unroutable ones."""

    is_persistent: bool = True
    has_full_headers: bool = False
    window: int = 5000
    on_unroutable: str = "drop"
    # By table, or by `TableName.pattern` for those of a whole database that have none of their own.
    routing_keys: dict[TableName, RoutingKey] = {}  # noqa: RUF012 -- never changed
    exchanges: dict[TableName, str] = {}  # noqa: RUF012 -- the others go to the broker's


def parameters(broker: Broker) -> Iterator[pika.ConnectionParameters]:
    """Give pika's parameters for one host after the other, in the order in which they are tried.

    Raises:
        BrokerRefused: a TLS file cannot be read.
    """
    credentials: Any = (
        pika.PlainCredentials(broker.user, broker.password)
        if broker.user is not None
        else pika.credentials.ExternalCredentials()
    )
    context = _tls_context(broker) if broker.is_tls else None
    for host, port in broker.hosts:
        yield pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=broker.virtual_host,
            credentials=credentials,
            ssl_options=pika.SSLOptions(context, host) if context else None,
            heartbeat=broker.heartbeat_seconds,
            connection_attempts=1,
            socket_timeout=_CONNECT_SECONDS,
            stack_timeout=_CONNECT_SECONDS,
            blocked_connection_timeout=None,
            tcp_options=_KEEPALIVE,
            client_properties={"connection_name": "replicator", "product": "replicator"},
        )


def _tls_context(broker: Broker) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=str(broker.tls_ca_file) if broker.tls_ca_file else None
        )
        if broker.tls_cert_file:
            context.load_cert_chain(
                str(broker.tls_cert_file), str(broker.tls_key_file or broker.tls_cert_file)
            )
    except (OSError, ssl.SSLError) as err:
        raise BrokerRefused(
            f"a TLS file of rabbitmq cannot be used: {err}",
            hint="check rabbitmq.tls_ca_file, tls_cert_file and tls_key_file",
        ) from err
    return context


def connect(broker: Broker) -> tuple[pika.BlockingConnection, pika.ConnectionParameters]:
    """Open a connection to the first host that answers, and say which it was.

    Raises:
        BrokerRefused: a host answered and refuses.
        BrokerUnavailable: no host answered.
    """
    failures: list[str] = []
    for each in parameters(broker):
        where = f"{each.host}:{each.port}"
        try:
            return pika.BlockingConnection(each), each
        except (exceptions.AMQPError, AMQPConnectorException, OSError, ValueError) as err:
            # A certificate that is refused is an OSError and a ValueError in one.
            if isinstance(err, ValueError) and not (
                isinstance(err, OSError) or is_lost_socket(err)
            ):
                raise
            error = translate(err, where)
            if isinstance(error, BrokerRefused):
                raise error from err
            failures.append(f"{where}: {_reason(err)}")
    raise BrokerUnavailable(
        f"RabbitMQ cannot be reached ({'; '.join(sorted(failures))})",
        hint="check that the broker runs and that rabbitmq.url is right"
        + hint_of_tls(
            failures, is_tls=broker.is_tls, setting="amqps://", hung_up="StreamLostError"
        ),
    )


def prepare(broker: Broker) -> pika.ConnectionParameters:
    """Declare the exchange and the queues, and say which host can be published to.

    Safe to repeat: declaring what exists as it should be changes nothing.

    Raises:
        BrokerRefused: wrong credentials, no permission, another kind of exchange or queue.
        BrokerUnavailable: no host answered, or the connection was lost.
    """
    connection, chosen = connect(broker)
    # A node that waits for another one of its cluster answers heartbeats and nothing else.
    driver.give_up_after(connection, _ANSWER_SECONDS)
    try:
        for name in dict.fromkeys((broker.exchange, *broker.exchanges)):
            _declare_or_use_exchange(connection, broker, name)
        for queue in broker.queues:
            channel = connection.channel()
            declare_queue(channel, queue)
            for binding in queue.bindings:
                channel.queue_bind(queue.name, broker.exchange, binding)
    except (exceptions.AMQPError, OSError) as err:
        raise translate(err, f"{chosen.host}:{chosen.port}") from err
    finally:
        # A connection that is lost right now has answered all that was asked of it.
        with contextlib.suppress(exceptions.AMQPError, OSError):
            if connection.is_open:
                connection.close()
    return chosen


def declare_exchange(
    channel: BlockingChannel, broker: Broker, name: str, arguments: Mapping[str, Any] | None = None
) -> None:
    """Declare an exchange as the settings say.

    Raises:
        pika.exceptions.ChannelClosedByBroker: see `another_exchange` for one that is another.
    """
    channel.exchange_declare(
        name,
        exchange_type=broker.exchange_type,
        durable=broker.is_exchange_durable,
        arguments=arguments,
    )


def another_exchange(broker: Broker, name: str, reason: str) -> BrokerRefused:
    """Return the error for an exchange that is there and is another than the settings say."""
    setting = "rabbitmq.exchange" if name == broker.exchange else "tables[].exchange"
    return BrokerRefused(
        f"exchange {name!r} exists and is another: {reason}",
        hint=f"set {setting}, rabbitmq.exchange_type or exchange_durable to match it, or delete it",
    )


def declare_queue(channel: BlockingChannel, queue: DeclaredQueue) -> None:
    """Declare a queue as the settings say.

    Raises:
        BrokerRefused: it is there and is another.
        pika.exceptions.ChannelClosedByBroker: anything else.
    """
    try:
        channel.queue_declare(queue.name, durable=True, arguments={"x-queue-type": queue.type})
    except exceptions.ChannelClosedByBroker as err:
        if err.reply_code != PRECONDITION_FAILED:
            raise
        raise BrokerRefused(
            f"queue {queue.name!r} exists and is another: {err.reply_text}",
            hint="make its entry in rabbitmq.queues match it, or delete the queue",
        ) from err


def _declare_or_use_exchange(
    connection: pika.BlockingConnection, broker: Broker, name: str
) -> None:
    try:
        declare_exchange(connection.channel(), broker, name)
    except exceptions.ChannelClosedByBroker as err:
        if err.reply_code == PRECONDITION_FAILED:
            raise another_exchange(broker, name, err.reply_text) from err
        if err.reply_code != ACCESS_REFUSED:
            raise
        # A user without the right to configure may still publish to an exchange that exists.
        try:
            connection.channel().exchange_declare(name, passive=True)
        except exceptions.ChannelClosedByBroker as missing:
            raise BrokerRefused(
                f"exchange {name!r} does not exist, and this user may not declare it",
                hint="declare it, or grant configure permission on it",
            ) from missing


def translate(err: BaseException, where: str) -> ReplicatorError:
    """Return what an error of pika means."""
    reason = _reason(err)
    # pika takes a link that breaks while it logs in for a refusal. RabbitMQ says so when it
    # refuses (it knows that pika understands); so this is only a link that broke.
    if isinstance(_innermost(err), _GUESSED) and exceptions.StreamLostError.__name__ in reason:
        return BrokerUnavailable(
            f"RabbitMQ at {where}: the link broke during the login: {reason}", hint=_HINT_OF_LINK
        )
    code = getattr(_innermost(err), "reply_code", 0)
    if isinstance(err, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError) or (
        code == ACCESS_REFUSED and "login" in reason.lower()
    ):
        return BrokerRefused(
            f"RabbitMQ at {where} refuses the user or password",
            hint="check rabbitmq.url and rabbitmq.password_file",
        )
    if isinstance(err, exceptions.ProbableAccessDeniedError):
        code = NOT_ALLOWED
    if (of_code := _ANSWERS.get(code)) is not None and of_code.sign in reason:
        return of_code.kind(f"RabbitMQ at {where} {of_code.words}: {reason}", hint=of_code.hint)
    if isinstance(_innermost(err), ssl.SSLCertVerificationError):
        return BrokerRefused(
            f"RabbitMQ at {where} has a certificate that cannot be trusted: {reason}",
            hint="check rabbitmq.tls_ca_file and the host name in rabbitmq.url",
        )
    return BrokerUnavailable(f"RabbitMQ at {where}: {reason}", hint=_HINT_OF_LINK)


def is_lost_socket(err: ValueError) -> bool:
    """Whether pika found a socket unconnected that had just been connected.

    pika 1.4 takes that for a wrong argument. It is a broker that ended in between: as RabbitMQ's
    port is when the node restarts (tests/unit/test_broker_that_ends.py).
    """
    return isinstance(err.__context__, OSError)


def _innermost(err: BaseException) -> BaseException:
    """Return what pika's connection workflow has wrapped several times."""
    for _ in range(10):
        nested = getattr(err, "exception", None) or (err.args[0] if err.args else None)
        exceptions_of = getattr(nested, "exceptions", None) or getattr(err, "exceptions", None)
        if exceptions_of:
            nested = exceptions_of[-1]
        if not isinstance(nested, BaseException):
            break
        err = nested
    return err


def _reason(err: BaseException) -> str:
    inner = _innermost(err)
    text = getattr(inner, "reply_text", None) or str(inner)
    return text.splitlines()[0] if text else type(inner).__name__
