"""How single values are written: addresses, durations, sizes, table names.

Pure functions from text to a value, and back for the documentation. They raise `ValueError` with
what is allowed; the caller adds the key and the value.
"""

import ipaddress
import math
import re
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple

# RethinkDB does not limit the length of a name (its name_string_t); the routing key does.
_TABLE_NAME = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+|\*)", re.ASCII)
# Labels of 1 to 63 characters, as in DNS: the socket module does not raise OSError for others.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_MAX_DURATION = timedelta(days=365)  # threads cannot wait for more than some hundred years
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", re.ASCII)
_SIZE = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]i?B|B)?", re.ASCII | re.IGNORECASE)

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_BINARY = {"tib": 2**40, "gib": 2**30, "mib": 2**20, "kib": 2**10}
_BYTES = _BINARY | {"tb": 10**12, "gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}


class HostPort(NamedTuple):
    """The address of a server, or one to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port``, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(text: str, *, default_port: int | None, lowest_port: int = 1) -> HostPort:
    """Read ``host``, ``host:port`` or ``[IPv6]:port``; without a default the port is required.

    No message quotes the text: in a broken URL it may be part of a password.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not (rest == "" or rest.startswith(":")):
            raise ValueError("an IPv6 address is written [address]:port")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("an address in brackets must be IPv6") from None
        port = rest.removeprefix(":")
        has_port = bool(rest)
    else:
        host, colon, port = text.partition(":")
        has_port = bool(colon)
        if ":" in port:
            raise ValueError("an IPv6 address is written in brackets: [::1]:port")
        if not host:
            raise ValueError("a host is missing")
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(
                "a host name has letters, digits, dots, hyphens and underscores only, at most 63 "
                "between two dots"
            )
    if has_port or default_port is None:
        return HostPort(host, _parse_port(port, lowest_port))
    return HostPort(host, default_port)


def _parse_port(text: str, lowest: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= 5
    if not is_number or not lowest <= int(text) <= 65535:
        raise ValueError(f"a port is a number from {lowest} to 65535")
    return int(text)


def parse_listen(value: object) -> HostPort | None:
    """Read ``HOST:PORT`` to listen on, or ``off``; port 0 lets the system choose one."""
    if value is None or isinstance(value, HostPort):
        return value
    # In YAML, where a manifest may come from, an unquoted "off" is false.
    if value is False or (isinstance(value, str) and value.lower() in {"off", "false"}):
        return None
    if not isinstance(value, str):
        raise ValueError("must be HOST:PORT or off")  # noqa: TRY004 - pydantic wants ValueError
    try:
        return parse_host_port(value, default_port=None, lowest_port=0)
    except ValueError as err:
        raise ValueError(
            f"must be HOST:PORT (0.0.0.0:9464 listens on all interfaces) or off: {err}"
        ) from None


def parse_duration(value: object) -> timedelta:
    """Read ``20s``, ``500ms``, ``2m``, ``1h`` or a number of seconds."""
    if isinstance(value, timedelta):
        return value
    seconds = math.nan
    if isinstance(value, str):
        if match := _DURATION.fullmatch(value.strip()):
            seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    try:
        duration = timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        duration = timedelta(-1)
    if duration < timedelta(0):
        raise ValueError("must be a duration such as 20s, 500ms or 2m, or a number of seconds")
    if duration > _MAX_DURATION:
        raise ValueError(f"must be a duration of at most {_MAX_DURATION.days} days")
    return duration


def format_duration(duration: timedelta) -> str:
    """Return a duration as `parse_duration` reads it."""
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def parse_size(value: object) -> int:
    """Read ``4GiB``, ``512 MiB``, ``2GB`` or a number of bytes."""
    size = -1
    if isinstance(value, str):
        if match := _SIZE.fullmatch(value.strip()):
            size = int(Fraction(match[1]) * _BYTES[(match[2] or "b").lower()])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    # SQLite and PostgreSQL count in signed 64 bits.
    if not 1 <= size < 2**63:
        raise ValueError("must be a size such as 4GiB or 512MiB, or a number of bytes")
    return size


def format_size(size: int) -> str:
    """Return a size as `parse_size` reads it, in the largest unit that divides it."""
    for unit, factor in zip(("TiB", "GiB", "MiB", "KiB"), _BINARY.values(), strict=True):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def check_table_name(name: str) -> str:
    """Return a name ``database.table`` or ``database.*``; raise ValueError for any other."""
    if not _TABLE_NAME.fullmatch(name):
        raise ValueError(
            "must be DATABASE.TABLE or DATABASE.*, in letters a-z and A-Z, digits, _ and -"
        )
    return name
