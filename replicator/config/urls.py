"""The URLs of RethinkDB and RabbitMQ, with user and password.

``str`` and ``repr`` of a parsed URL hide its password. No message of a `ValueError` quotes a part
of the URL: a mistyped URL may have its password anywhere.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, Self
from urllib.parse import quote, unquote_to_bytes

from replicator.config.values import HostPort, parse_host_port, refuse_control_characters
from replicator.domain.routing import MAX_BYTES
from replicator.log import HIDDEN

_AT_AFTER_AUTHORITY = re.compile(r"[/?#].*@", re.DOTALL)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _decode(text: str, what: str) -> str:
    if _STRAY_PERCENT.search(text):
        raise ValueError(f"a % in the {what} is written %25")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise ValueError(f"the {what} is not UTF-8 after percent-decoding") from None


def _name(text: str, what: str) -> str:
    return refuse_control_characters(_decode(text, what), f"the {what}")


class _Parts(NamedTuple):
    """A URL, split at its delimiters; user and password are percent-decoded, the path is not."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[HostPort, ...]
    path: str


def _split(url: str, default_ports: dict[str, int]) -> _Parts:
    scheme, separator, rest = url.partition("://")
    port = default_ports.get(scheme.lower())
    if not separator or port is None:
        raise ValueError("must begin with " + " or ".join(f"{name}://" for name in default_ports))
    if _AT_AFTER_AUTHORITY.search(rest):
        raise ValueError("in a user or password, / is written %2F, # is %23, ? is %3F and @ is %40")
    if "?" in rest:
        raise ValueError("takes no parameters after a ?: each has its own setting")
    if "#" in rest:
        raise ValueError("takes no #fragment")
    authority, _, path = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    if "@" in userinfo:
        raise ValueError(
            "has one user, before the first of its hosts; an @ in a password is written %40"
        )
    user, colon, password = userinfo.partition(":")
    return _Parts(
        scheme.lower(),
        _name(user, "user") if user else None,
        _decode(password, "password") if colon else None,
        tuple(parse_host_port(host, default_port=port) for host in hosts.split(",")),
        path,
    )


@dataclass(frozen=True, repr=False)
class ServerUrl:
    """What both URLs have: servers to try in turn, and who logs in."""

    hosts: tuple[HostPort, ...]
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """Return the URL with its password hidden."""
        return self._write(HIDDEN)

    __repr__ = __str__

    def reveal(self) -> str:
        """Return the URL with its password."""
        return self._write(quote(self.password or "", safe=""))

    def _write(self, password: str) -> str:
        userinfo = quote(self.user or "", safe="")
        if self.password is not None:
            userinfo += f":{password}"
        at = "" if self.user is self.password is None else "@"
        scheme, path = self._ends()
        return f"{scheme}://{userinfo}{at}{','.join(map(str, self.hosts))}{path}"

    def _ends(self) -> tuple[str, str]:
        """Return the scheme and the path."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class RethinkDBUrl(ServerUrl):
    """``rethinkdb://user:password@host:port,host:port``."""

    user: str = "admin"

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL; the user defaults to ``admin``, the port to 28015.

        Raises:
            ValueError: It is not such a URL; the message says what is allowed.
        """
        parts = _split(url, {"rethinkdb": 28015})
        if parts.path:
            raise ValueError("takes no path: name a database with its tables, as in shop.orders")
        return cls(parts.hosts, parts.user or "admin", parts.password)

    def _ends(self) -> tuple[str, str]:
        return "rethinkdb", ""


@dataclass(frozen=True, repr=False)
class RabbitMQUrl(ServerUrl):
    """``amqp://user:password@host:port,host:port/virtual-host``, or ``amqps://`` for TLS."""

    virtual_host: str = "/"
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL as in RabbitMQ's URI specification; the port defaults to 5672, with TLS 5671.

        Without a path the virtual host is ``/``. A path of ``/`` alone means the empty virtual host
        in the specification; it is read as ``/``, as pika does.

        Raises:
            ValueError: It is not such a URL; the message says what is allowed.
        """
        parts = _split(url, {"amqp": 5672, "amqps": 5671})
        if "/" in parts.path:
            raise ValueError("a / in the virtual host is written %2F")
        virtual_host = _name(parts.path, "virtual host") or "/"
        if len(virtual_host.encode()) > MAX_BYTES:
            raise ValueError(f"the virtual host has more than {MAX_BYTES} bytes (AMQP's limit)")
        return cls(parts.hosts, parts.user, parts.password, virtual_host, parts.scheme == "amqps")

    def _ends(self) -> tuple[str, str]:
        return "amqps" if self.tls else "amqp", "/" + quote(self.virtual_host, safe="")
