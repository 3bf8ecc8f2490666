"""Reaching RabbitMQ: parameters, TLS, and the login."""

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pika
from pika import exceptions
from pika.adapters.utils.connection_workflow import (
    AMQPConnectorException,
    AMQPConnectorStackTimeout,
)

from replicator.domain.model import TableName
from replicator.domain.routing import RoutingKey
from replicator.errors import BrokerRefused, BrokerUnavailable, ReplicatorError
from replicator.publisher.answers import (
    innermost,
    is_lost_socket,
    is_of_the_login,
    reason_of,
    said_by,
    translate,
)
from replicator.publisher.asking import what_answers
from replicator.publisher.refusals import refusal_of

_SOON_SECONDS: Final = 3.0
_CONNECT_SECONDS: Final = 10.0
_FAILURES: Final = (exceptions.AMQPError, AMQPConnectorException, OSError, ValueError)
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    # Milliseconds that sent bytes may stay unacknowledged before the kernel gives up.
    "TCP_USER_TIMEOUT": 30_000,
}


class DeclaredQueue(NamedTuple):
    """A queue that is declared at start, durable."""

    name: str
    bindings: Sequence[str]
    type: str
    arguments: Mapping[str, str | int | bool] = {}
    is_type_given: bool = True

    @property
    def named(self) -> frozenset[str]:
        """What a queue that exists must have as the settings say, by RabbitMQ's names."""
        type_argument = ["x-queue-type"] if self.is_type_given else []
        return frozenset(["durable", *type_argument, *self.arguments])


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
    """Open a connection to the first host that takes it, and say which it was.

    Raises:
        BrokerRefused: a host answered and refuses for good.
        BrokerUnavailable: no host answered, or those that did refuse for now.
    """
    failures: list[str] = []
    refused: ReplicatorError | None = None
    for each in parameters(broker):
        where = f"{each.host}:{each.port}"
        try:
            return _login(each, is_tls=broker.is_tls), each
        except _FAILURES as err:
            # A certificate that is refused is an OSError and a ValueError in one.
            if isinstance(err, ValueError) and not (
                isinstance(err, OSError) or is_lost_socket(err)
            ):
                raise
            error = translate(err, where)
            if isinstance(error, BrokerRefused):
                raise error from err
            if refusal_of(*said_by(err)) is not None:
                refused = error
            failures.append(f"{where}: {reason_of(err)}")
    if refused is not None:
        raise refused
    raise BrokerUnavailable(
        f"RabbitMQ cannot be reached ({'; '.join(sorted(failures))})",
        hint="check that the broker runs, and host and port in rabbitmq.url: RabbitMQ has 5672, "
        "or 5671 with amqps://",
    )


def _login(each: pika.ConnectionParameters, *, is_tls: bool) -> pika.BlockingConnection:
    """Log in, and find out soon if what answers is another server.

    pika waits for the rest of a frame where an HTTP server answers, and for its beginning where
    nothing is said. So it has little time at first, and more only where RabbitMQ answers.
    """
    each.stack_timeout = _SOON_SECONDS
    try:
        return pika.BlockingConnection(each)
    except _FAILURES as err:
        if not is_of_the_login(err):
            raise
        if found := what_answers(each.host, each.port, is_tls=is_tls):
            raise OSError(found) from err
        if not isinstance(innermost(err), AMQPConnectorStackTimeout):
            raise
    finally:
        each.stack_timeout = _CONNECT_SECONDS
    return pika.BlockingConnection(each)
