"""The URLs of RethinkDB and RabbitMQ, with user and password.

``str`` and ``repr`` of a parsed URL hide its password. No message of a `ValueError` quotes a part
of the URL: a mistyped URL may have its password anywhere.
"""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote_to_bytes

from replicator.config.values import HostPort, parse_host_port
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


@dataclass(frozen=True, slots=True)
class _Parts:
    """A URL, split at its delimiters; user and password are percent-decoded, the path is not."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[HostPort, ...]
    path: str


def _split(url: str, default_ports: dict[str, int]) -> _Parts:
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in default_ports:
        raise ValueError("must begin with " + " or ".join(f"{name}://" for name in default_ports))
    if _AT_AFTER_AUTHORITY.search(rest):
        raise ValueError("in a user or password, / is written %2F, # is %23, ? is %3F and @ is %40")
    if "?" in rest:
        raise ValueError("takes no parameters after a ?: each has its own setting")
    if "#" in rest:
        raise ValueError("takes no #fragment")
    authority, slash, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    if "@" in userinfo:
        raise ValueError(
            "has one user, before the first of its hosts; an @ in a password is written %40"
        )
    user, colon, password = userinfo.partition(":")
    if not hosts:
        raise ValueError("a host is missing")
    return _Parts(
        scheme,
        _decode(user, "user") if at and user else None,
        _decode(password, "password") if colon else None,
        tuple(
            parse_host_port(host, default_port=default_ports[scheme]) for host in hosts.split(",")
        ),
        slash + path,
    )


def _userinfo(user: str | None, password: str | None) -> str:
    if user is None and password is None:
        return ""
    name = quote(user or "", safe="")
    return f"{name}@" if password is None else f"{name}:{password}@"


@dataclass(frozen=True, slots=True, repr=False)
class RethinkDBUrl:
    """``rethinkdb://user:password@host:port,host:port``."""

    hosts: tuple[HostPort, ...]
    user: str = "admin"
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL; the user defaults to ``admin``, the port to 28015.

        Raises:
            ValueError: It is not such a URL; the message says what is allowed.
        """
        parts = _split(url, {"rethinkdb": 28015})
        if parts.path not in {"", "/"}:
            raise ValueError("takes no path: name a database with its tables, as in shop.orders")
        return cls(parts.hosts, parts.user or "admin", parts.password)

    def __str__(self) -> str:
        """Return the URL with its password hidden."""
        return self._write(None if self.password is None else HIDDEN)

    __repr__ = __str__

    def reveal(self) -> str:
        """Return the URL with its password."""
        return self._write(None if self.password is None else quote(self.password, safe=""))

    def _write(self, password: str | None) -> str:
        return f"rethinkdb://{_userinfo(self.user, password)}{','.join(map(str, self.hosts))}"


@dataclass(frozen=True, slots=True, repr=False)
class RabbitMQUrl:
    """``amqp://user:password@host:port,host:port/virtual-host``, or ``amqps://`` for TLS."""

    hosts: tuple[HostPort, ...]
    user: str | None = None
    password: str | None = None
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
        virtual_host = parts.path.removeprefix("/")
        if "/" in virtual_host:
            raise ValueError("a / in the virtual host is written %2F")
        return cls(
            parts.hosts,
            parts.user,
            parts.password,
            _decode(virtual_host, "virtual host") or "/",
            parts.scheme == "amqps",
        )

    def __str__(self) -> str:
        """Return the URL with its password hidden."""
        return self._write(None if self.password is None else HIDDEN)

    __repr__ = __str__

    def reveal(self) -> str:
        """Return the URL with its password."""
        return self._write(None if self.password is None else quote(self.password, safe=""))

    def _write(self, password: str | None) -> str:
        scheme = "amqps" if self.tls else "amqp"
        hosts = ",".join(map(str, self.hosts))
        path = quote(self.virtual_host, safe="")
        return f"{scheme}://{_userinfo(self.user, password)}{hosts}/{path}"
