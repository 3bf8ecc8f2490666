"""The settings of the two servers: where they are, who logs in, how TLS is verified."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from replicator.config.section import (
    ContradictionError,
    Count,
    ReadableFile,
    Section,
    ShortName,
    text,
)
from replicator.config.urls import RabbitMQUrl, RethinkDBUrl
from replicator.config.values import HostPort, parse_duration

EXCHANGE_TYPES = ("topic", "direct", "fanout", "headers")


def _rethinkdb_url(value: object) -> RethinkDBUrl:
    return value if isinstance(value, RethinkDBUrl) else RethinkDBUrl.parse(text(value))


def _rabbitmq_url(value: object) -> RabbitMQUrl:
    return value if isinstance(value, RabbitMQUrl) else RabbitMQUrl.parse(text(value))


def _exchange_type(value: str) -> str:
    # x-…: types that plugins bring, such as x-consistent-hash.
    if value not in EXCHANGE_TYPES and not value.startswith("x-"):
        raise ValueError(f"must be {', '.join(EXCHANGE_TYPES)}, or a plugin's type (x-…)")
    return value


def _heartbeat(value: timedelta) -> timedelta:
    # AMQP counts whole seconds in 16 bits; 0 would mean none, and a dead link would go unnoticed.
    if value % timedelta(seconds=1) or not 2 <= value.total_seconds() <= 600:
        raise ValueError("must be whole seconds, 2 to 600")
    return value


def _password_in(path: Path) -> str:
    """Read a password file. One line break at its end is an editor's, not the password's."""
    try:
        password = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ContradictionError("password_file", "is not UTF-8 text") from None
    password = password.removesuffix("\n").removesuffix("\r")
    if not password:
        raise ContradictionError("password_file", "is empty")
    return password


def _password(section: "RethinkDB | RabbitMQ") -> str | None:
    """Return the password from the file or from the URL, whichever was given."""
    if section.password_file is None:
        return section.url.password
    # The default URL has a password too; the file replaces that one without a contradiction.
    if section.url.password is not None and "url" in section.model_fields_set:
        raise ContradictionError(
            "password_file", "contradicts the password in url: give only one of the two"
        )
    return _password_in(section.password_file)


class RethinkDB(Section):
    """Where the changes come from."""

    url: Annotated[RethinkDBUrl, BeforeValidator(_rethinkdb_url)] = Field(
        default=RethinkDBUrl((HostPort("127.0.0.1", 28015),)),
        description="user, password, host:port; hosts separated by commas are tried in turn",
    )
    password_file: ReadableFile | None = Field(
        default=None,
        description="file with the password; leave it out of `url`",
    )
    tls_ca_file: ReadableFile | None = Field(
        default=None,
        description="CA certificate (PEM) to verify the server with; turns TLS on",
    )
    changefeed_queue_size: Count = Field(
        default=100_000,
        description="changes that RethinkDB keeps for a feed that is not read; one more, and it "
        "drops them all and a resync finds the latest states. Each overflow doubles it, up to "
        "eight times the setting",
    )
    _password: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._password = _password(self)
        return self

    @property
    def hosts(self) -> tuple[HostPort, ...]:
        """The servers to try, in this order."""
        return self.url.hosts

    @property
    def user(self) -> str:
        """Who logs in."""
        return self.url.user

    @property
    def password(self) -> str:
        """From the file or the URL; empty by default, as in RethinkDB."""
        return self._password or ""

    @property
    def safe_url(self) -> str:
        """The URL for printing, without its password."""
        return str(self.url)


class Queue(Section):
    """A durable queue, declared and bound at start."""

    name: ShortName = Field(description="the queue's name")
    bindings: tuple[ShortName, ...] = Field(
        default=("#",),
        min_length=1,
        description="routing keys to bind; `#` is every message of a topic exchange",
    )
    type: Literal["quorum", "classic", "stream"] = Field(
        default="quorum", description="`quorum`, `classic` or `stream`"
    )

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name.startswith("amq."):
            raise ValueError("must not begin with amq., which RabbitMQ reserves")
        return name


class RabbitMQ(Section):
    """Where the messages go."""

    url: Annotated[RabbitMQUrl, BeforeValidator(_rabbitmq_url)] = Field(
        default=RabbitMQUrl((HostPort("127.0.0.1", 5672),), "guest", "guest"),
        description="`amqps://` for TLS; hosts separated by commas are tried in turn",
    )
    password_file: ReadableFile | None = Field(
        default=None,
        description="file with the password; leave it out of `url`",
    )
    tls_ca_file: ReadableFile | None = Field(
        default=None,
        description="CA certificate (PEM) to verify the server with; without it `amqps://` "
        "trusts the system's CAs",
    )
    tls_cert_file: ReadableFile | None = Field(
        default=None,
        description="client certificate (PEM); logs in (SASL EXTERNAL) when `url` has no user",
    )
    tls_key_file: ReadableFile | None = Field(
        default=None, description="the client certificate's key, if it is in another file"
    )
    exchange: ShortName = Field(
        default="rethinkdb",
        description="declared if it is missing; an error if it exists with another type or "
        "durability",
    )
    exchange_type: Annotated[str, AfterValidator(_exchange_type)] = Field(
        default="topic", description="`topic`, `direct`, `fanout`, `headers` or a plugin's `x-…`"
    )
    exchange_durable: bool = Field(
        default=True,
        description="whether the exchange survives a restart of RabbitMQ; `false` for the "
        "tutorial's listeners",
    )
    persistent: bool = Field(
        default=True, description="delivery mode 2: RabbitMQ writes messages to disk"
    )
    headers: Literal["compact", "full"] = Field(
        default="compact",
        description="`compact`: no headers on a live change; `full`: `x-replicator-*` headers on "
        "every message",
    )
    window: Count = Field(default=5000, description="max messages published and not yet confirmed")
    on_unroutable: Literal["drop", "hold", "park"] = Field(
        default="drop",
        description="what to do with a message that no queue takes: `drop` it (counted and "
        "logged), `hold` it (retried until a queue is bound) or `park` it (set aside for an "
        "operator)",
    )
    heartbeat: Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_heartbeat)] = (
        Field(
            default=timedelta(seconds=20),
            description="both sides close a connection that was silent for about twice this long; "
            "whole seconds, 2 to 600",
        )
    )
    queues: tuple[Queue, ...] = Field(
        default=(),
        description="durable queues to declare at start and bind to `rabbitmq.exchange`; JSON in "
        "the environment",
    )
    _password: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._password = _password(self)
        self._check_tls()
        if self.password_file is not None and self.url.user is None:
            raise ContradictionError("password_file", "needs a user in url")
        names = [queue.name for queue in self.queues]
        for position, queue in enumerate(self.queues):
            if queue.name in names[:position]:
                raise ContradictionError("queues", f"names the queue {queue.name!r} twice")
            if self.exchange_type == "direct" and "bindings" not in queue.model_fields_set:
                raise ContradictionError(
                    "queues",
                    f"the queue {queue.name!r} needs bindings: a direct exchange matches whole "
                    "routing keys, no wildcards",
                )
        return self

    def _check_tls(self) -> None:
        for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
            if getattr(self, key) is not None and not self.url.tls:
                raise ContradictionError(key, "contradicts amqp:// in url: TLS is amqps://")
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ContradictionError("tls_key_file", "needs tls_cert_file beside it")

    @property
    def hosts(self) -> tuple[HostPort, ...]:
        """The servers to try, in this order."""
        return self.url.hosts

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

    @property
    def virtual_host(self) -> str:
        """The virtual host, decoded."""
        return self.url.virtual_host

    @property
    def tls(self) -> bool:
        """Whether the URL is ``amqps://``."""
        return self.url.tls

    @property
    def safe_url(self) -> str:
        """The URL for printing, without its password."""
        return str(self.url)
