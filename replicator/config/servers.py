"""The settings of the two servers: where they are, who logs in, how TLS is verified."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from replicator.config.files import read_text
from replicator.config.section import (
    ContradictionError,
    Count,
    ReadableFile,
    Section,
    ShortName,
    require_different,
)
from replicator.config.urls import RabbitMQUrl, RethinkDBUrl, ServerUrl
from replicator.config.values import parse_duration, refuse_control_characters, text

_MAX_PASSWORD_BYTES = 64 * 1024
_EXCHANGE_TYPES = ("topic", "direct", "fanout", "headers")


def _exchange_type(value: str) -> str:
    # x-…: types that plugins bring, such as x-consistent-hash.
    if value not in _EXCHANGE_TYPES and not value.startswith("x-"):
        raise ValueError(f"must be {', '.join(_EXCHANGE_TYPES)}, or a plugin's type (x-…)")
    return value


def _queue_name(value: str) -> str:
    if value.startswith("amq."):
        raise ValueError("must not begin with amq., which RabbitMQ reserves")
    return value


def _heartbeat(value: timedelta) -> timedelta:
    # AMQP counts whole seconds in 16 bits; 0 would mean none, and a dead link would go unnoticed.
    if value % timedelta(seconds=1) or not 2 <= value.total_seconds() <= 600:
        raise ValueError("must be whole seconds, 2 to 600")
    return value


def _password_in(path: Path) -> str:
    """Read a password file. One line break at its end is an editor's, not the password's."""
    try:
        password = read_text(path, max_bytes=_MAX_PASSWORD_BYTES)
    except ValueError as err:
        raise ContradictionError("password_file", str(err)) from None
    password = password.removesuffix("\n").removesuffix("\r")
    if not password:
        raise ContradictionError("password_file", "is empty")
    return password


class _Server(Section):
    """What both servers have: where they are, and a password that may be in a file."""

    url: ServerUrl
    password_file: ReadableFile | None = None
    """file with the password; leave it out of `url`"""
    _password: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _find_password(self) -> Self:
        self._password = self.url.password
        if self.password_file is not None:
            # The default URL has a password too: the file replaces that one.
            if self.url.password is not None and "url" in self.model_fields_set:
                raise ContradictionError(
                    "password_file", "contradicts the password in url: give only one of the two"
                )
            self._password = _password_in(self.password_file)
        return self


class RethinkDB(_Server):
    """Where the changes come from."""

    url: Annotated[RethinkDBUrl, BeforeValidator(RethinkDBUrl.parse), BeforeValidator(text)] = (
        Field(default="rethinkdb://admin@127.0.0.1:28015", validate_default=True)
    )
    """user, password, host:port; hosts separated by commas are tried in turn"""
    tls_ca_file: ReadableFile | None = None
    """CA certificate (PEM) to verify the server with; turns TLS on"""
    changefeed_queue_size: Count = 100_000
    """changes that RethinkDB keeps for a feed that is not read; one more, and it drops them all
    and a resync finds the latest states. Each overflow doubles it, up to eight times the setting"""

    @property
    def password(self) -> str:
        """From the file or the URL; empty by default, as in RethinkDB."""
        return self._password or ""


def _arguments(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be a table")  # noqa: TRY004 - pydantic wants ValueError
    for name, argument in value.items():
        if not isinstance(argument, str | int) or not isinstance(name, str):
            raise ValueError(  # noqa: TRY004 - pydantic wants ValueError
                f"{name}: must be text, a whole number, true or false"
            )
        for each in (name, argument):
            if isinstance(each, str):
                refuse_control_characters(each, repr(each))
        if isinstance(argument, int) and not -(2**63) <= argument < 2**63:
            raise ValueError(f"{name}: AMQP's whole numbers have 64 bits")
    return value


class Queue(Section):
    """A durable queue, declared and bound at start."""

    name: Annotated[ShortName, AfterValidator(_queue_name)]
    """the queue's name"""
    bindings: tuple[ShortName, ...] = Field(default=("#",), min_length=1)
    """routing keys to bind; `#` is every message of a topic exchange"""
    type: Literal["quorum", "classic", "stream"] = "quorum"
    """`quorum`, `classic` or `stream`; compared with a queue that exists only if it is given"""
    arguments: Annotated[Mapping[ShortName, str | int | bool], BeforeValidator(_arguments)] = Field(
        default={}
    )
    """more arguments of its declaration, such as `x-dead-letter-exchange`: text, whole numbers,
    true or false"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "x-queue-type" in self.arguments:
            raise ContradictionError("arguments", "has x-queue-type: that is the setting type")
        return self


class RabbitMQ(_Server):
    """Where the messages go."""

    url: Annotated[RabbitMQUrl, BeforeValidator(RabbitMQUrl.parse), BeforeValidator(text)] = Field(
        default="amqp://guest:guest@127.0.0.1:5672/%2F", validate_default=True
    )
    """`amqps://` for TLS; hosts separated by commas are tried in turn"""
    tls_ca_file: ReadableFile | None = None
    """CA certificate (PEM) to verify the server with; without it `amqps://` trusts the system's
    CAs"""
    tls_cert_file: ReadableFile | None = None
    """client certificate (PEM); logs in (SASL EXTERNAL) when `url` has no user"""
    tls_key_file: ReadableFile | None = None
    """the client certificate's key, if it is in another file"""
    exchange: ShortName = "rethinkdb"
    """declared if it is missing; an error if it exists with another type or durability"""
    exchange_type: Annotated[ShortName, AfterValidator(_exchange_type)] = "topic"
    """`topic`, `direct`, `fanout`, `headers` or a plugin's `x-…`"""
    exchange_durable: bool = True
    """whether the exchange survives a restart of RabbitMQ; `false` for the tutorial's listeners"""
    persistent: bool = True
    """delivery mode 2: RabbitMQ writes messages to disk"""
    headers: Literal["compact", "full"] = "compact"
    """`compact`: no headers on a live change; `full`: `x-replicator-*` headers on every message"""
    window: Count = 5000
    """max messages published and not yet confirmed"""
    on_unroutable: Literal["drop", "hold", "park"] = "drop"
    """what to do with a message that no queue takes: `drop` it (counted and logged), `hold` it
    (retried until a queue is bound) or `park` it (set aside for an operator)"""
    heartbeat: Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_heartbeat)] = (
        Field(default="20s", validate_default=True)
    )
    """both sides close a connection that was silent for about twice this long; whole seconds, 2
    to 600"""
    queues: tuple[Queue, ...] = ()
    """durable queues to declare at start and bind to `rabbitmq.exchange`; JSON in the environment
    """

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.password_file is not None and self.url.user is None:
            raise ContradictionError("password_file", "needs a user in url")
        for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
            if getattr(self, key) is not None and not self.url.tls:
                raise ContradictionError(key, "contradicts amqp:// in url: TLS is amqps://")
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ContradictionError("tls_key_file", "needs tls_cert_file beside it")
        require_different((queue.name for queue in self.queues), "queues")
        for queue in self.queues:
            if self.exchange_type == "direct" and "bindings" not in queue.model_fields_set:
                raise ContradictionError(
                    "queues",
                    f"the queue {queue.name!r} needs bindings: a direct exchange matches whole "
                    "routing keys, no wildcards",
                )
        return self

    @property
    def is_external(self) -> bool:
        """Whether the client certificate logs in (SASL EXTERNAL) instead of a password."""
        return self.url.user is None and self.tls_cert_file is not None

    @property
    def user(self) -> str | None:
        """Who logs in; None if the certificate does (`is_external`)."""
        return None if self.is_external else self.url.user or "guest"

    @property
    def password(self) -> str | None:
        """From the file or the URL; RabbitMQ's default if the URL has no user."""
        if self.is_external:
            return None
        return self._password or ("guest" if self.url.user is None else "")
