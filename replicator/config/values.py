"""How single values are written: addresses, durations, sizes, table names.

Pure functions from text to a value. They raise `ValueError` with what is allowed; the caller adds
the key and the value.
"""

import ipaddress
import re
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple

from replicator.domain.guard import SHARE_APPLIES_ABOVE, DeleteLimit
from replicator.domain.routing import MAX_BYTES

# RethinkDB does not limit the length of a name (its name_string_t); the routing key does.
_TABLE_NAME = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+|\*)", re.ASCII)
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<name>[^:\[]*))(?::(?P<port>[^:]*))?")
# Labels of 1 to 63 characters, as in DNS: the socket module does not raise OSError for others.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_MAX_DURATION = timedelta(days=365)  # threads cannot wait for more than some hundred years
_DURATION = re.compile(r"(\d{1,12}(?:\.\d+)?)\s*(ms|s|m|h)?", re.ASCII)
_SHARE = re.compile(r"(\d{1,2}(?:\.\d{1,9})?)\s*%", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_SIZE = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]i?B|B)?", re.ASCII | re.IGNORECASE)

# With the separators that end a line in Unicode.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_BYTES = {"tib": 2**40, "gib": 2**30, "mib": 2**20, "kib": 2**10}
_BYTES |= {"tb": 10**12, "gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}


class HostPort(NamedTuple):
    """The address of a server, or one to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port``, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def refuse_control_characters(value: str, what: str = "") -> str:
    """Return a text; raise ValueError if something in it is neither seen nor typed.

    RabbitMQ takes a line end in a name's declaration, and refuses it where a message is published.
    """
    if _CONTROL.search(value):
        raise ValueError(f"{what} must not have control characters, such as a line end".lstrip())
    return value


def short_name(value: str) -> str:
    """Return a name that AMQP can carry, in a short string; raise ValueError if it cannot."""
    refuse_control_characters(value)
    if not 1 <= len(value.encode()) <= MAX_BYTES:
        raise ValueError(f"must have 1 to {MAX_BYTES} bytes (AMQP's limit)")
    return value


def text(value: object) -> str:
    """Return a string; raise ValueError if it is not one."""
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - pydantic wants ValueError
    return value


def parse_host_port(address: str, *, default_port: int | None, lowest_port: int = 1) -> HostPort:
    """Read ``host``, ``host:port`` or ``[IPv6]:port``; without a default the port is required.

    No message quotes the address: in a broken URL it may be part of a password.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError("an IPv6 address is written in brackets: [address]:port")
    ipv6, name, port = found["ipv6"], found["name"], found["port"]
    if ipv6 is not None:
        try:
            ipaddress.IPv6Address(ipv6)
        except ValueError:
            raise ValueError("an address in brackets must be IPv6") from None
    elif not name:
        raise ValueError("a host is missing")
    elif not _HOST_NAME.fullmatch(name):
        raise ValueError(
            "a host name has letters, digits, dots, hyphens and underscores only, at most 63 "
            "between two dots"
        )
    if port is None and default_port is not None:
        return HostPort(ipv6 or name, default_port)
    if not _PORT.fullmatch(port or "") or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"a port is a number from {lowest_port} to 65535")
    return HostPort(ipv6 or name, int(port))


def parse_listen(value: object) -> HostPort | None:
    """Read ``HOST:PORT`` to listen on, or ``off``; port 0 lets the system choose one."""
    # In YAML, where a manifest may come from, an unquoted "off" is false.
    if str(value).lower() in {"off", "false"}:
        return None
    try:
        return parse_host_port(text(value), default_port=None, lowest_port=0)
    except ValueError as err:
        raise ValueError(
            f"must be HOST:PORT (0.0.0.0:9464 listens on all interfaces) or off: {err}"
        ) from None


def parse_duration(value: object) -> timedelta:
    """Read ``20s``, ``500ms``, ``2m``, ``1h`` or a number of seconds."""
    found = _DURATION.fullmatch(str(value).strip())
    if found is None:
        raise ValueError("must be a duration such as 20s, 500ms or 2m, or a number of seconds")
    seconds = float(found[1]) * _SECONDS[found[2] or "s"]
    if seconds > _MAX_DURATION.total_seconds():
        raise ValueError(f"must be a duration of at most {_MAX_DURATION.days} days")
    return timedelta(seconds=seconds)


def parse_size(value: object) -> int:
    """Read ``4GiB``, ``512 MiB``, ``2GB`` or a number of bytes."""
    found = _SIZE.fullmatch(str(value).strip()) if isinstance(value, str | int) else None
    size = int(Fraction(found[1]) * _BYTES[(found[2] or "b").lower()]) if found else 0
    # SQLite and PostgreSQL count in signed 64 bits.
    if not 1 <= size < 2**63:
        raise ValueError("must be a size such as 4GiB or 512MiB, or a number of bytes")
    return size


def parse_delete_guard(value: object) -> DeleteLimit | None:
    """Read ``20%``, a number of documents, or ``off``."""
    given = str(value).strip().lower()
    # As for `parse_listen`.
    if given in {"off", "false"}:
        return None
    if share := _SHARE.fullmatch(given):
        return DeleteLimit(SHARE_APPLIES_ABOVE, Fraction(share[1]) / 100)
    if _NUMBER.fullmatch(given):
        return DeleteLimit(int(given))
    raise ValueError(
        "must be a share below 100% such as 20%, a number of documents such as 5000, or off"
    )


def check_table_name(name: str) -> str:
    """Return a name ``database.table`` or ``database.*``; raise ValueError for any other."""
    if not _TABLE_NAME.fullmatch(name):
        raise ValueError(
            "must be DATABASE.TABLE or DATABASE.*, in letters a-z and A-Z, digits, _ and -"
        )
    if name == "rethinkdb.*":
        raise ValueError("names RethinkDB's own database, whose tables are not listed")
    return name
