"""Connections to RethinkDB: opening them, bounding every wait, saying what an error means."""

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from rethinkdb import errors as reql
from rethinkdb import r

from replicator.domain.greeting import MAX_BYTES, REQUEST, RETHINKDB, TLS, seems_to_speak
from replicator.domain.hosts import hint_of_tls
from replicator.errors import (
    FeedAborted,
    FeedDisconnected,
    ReplicatorError,
    SourceRefused,
    SourceUnavailable,
    TableUnusable,
)
from replicator.source.driver import adopt, shut
from replicator.source.watchdog import Watch

_CONNECT_SECONDS: Final = 10
_GREETING_SECONDS: Final = 2.0

# The server's words for what the driver has no error for; a table's name cannot contain them
# (tests/contract/test_permissions.py).
_DENIED: Final = "does not have the required"

_STRANGER: Final = "not RethinkDB's protocol of queries"


class Server(NamedTuple):
    """How to reach RethinkDB."""

    hosts: Iterable[tuple[str, int]]
    user: str
    password: str
    tls_ca_file: Path | None = None

    def __repr__(self) -> str:
        """Show it without the password."""
        return f"Server(hosts={self.hosts!r}, user={self.user!r})"


def connect(server: Server) -> Any:
    """Open a connection to the first host that answers.

    Raises:
        SourceRefused: a host answered and refuses the user, or is not who it should be.
        SourceUnavailable: no host answered.
    """
    _require_usable(server.tls_ca_file)
    failures: list[str] = []
    for host, port in server.hosts:
        try:
            connection = _connect_to(server, host, port)
        except (reql.ReqlDriverError, OSError) as err:
            failures.append(f"{host}:{port}: {_reason(err, host, port)}")
        else:
            adopt(connection)
            return connection
    raise SourceUnavailable(
        # Sorted, whichever host was tried first: it is the same error.
        f"RethinkDB cannot be reached ({'; '.join(sorted(failures))})",
        hint="check that the server runs and that rethinkdb.url is right"
        + ("; drivers connect to port 28015 by default" if _STRANGER in " ".join(failures) else "")
        + hint_of_tls(
            failures,
            is_tls=server.tls_ca_file is not None,
            setting="rethinkdb.tls_ca_file",
            hung_up="Connection is closed",
        ),
    )


def _connect_to(server: Server, host: str, port: int) -> Any:
    try:
        return r.connect(
            host=host,
            port=port,
            user=server.user,
            # The driver encodes it as Latin-1, while the server keeps UTF-8.
            password=server.password.encode().decode("latin-1"),
            timeout=_CONNECT_SECONDS,
            ssl={"ca_certs": str(server.tls_ca_file)} if server.tls_ca_file else None,
        )
    except reql.ReqlAuthError as err:
        raise SourceRefused(
            f"RethinkDB at {host}:{port} refuses user {server.user!r}: {_line(err)}",
            hint="check rethinkdb.url and rethinkdb.password_file",
        ) from err
    except (reql.ReqlDriverError, OSError) as err:
        if "certificate verify failed" not in str(err).lower():
            raise
        raise SourceRefused(
            f"RethinkDB at {host}:{port} has a certificate that cannot be trusted: {_line(err)}",
            hint="check rethinkdb.tls_ca_file and the host name in rethinkdb.url",
        ) from err


def _require_usable(tls_ca_file: Path | None) -> None:
    """Refuse a CA file with which every attempt of the driver would fail."""
    if tls_ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=str(tls_ca_file))
    except (OSError, ssl.SSLError) as err:
        raise SourceRefused(
            f"rethinkdb.tls_ca_file {tls_ca_file} cannot be used: {err}",
            hint="it must be a file of certificates in PEM form",
        ) from err


@contextlib.contextmanager
def asking(connection: Any, watch: Watch, seconds: float, table: object) -> Iterator[None]:
    """Bound the time of the queries in the block, and turn the driver's errors into our own.

    The driver itself would wait for ever: after ``seconds`` the connection is shut.

    Raises:
        FeedDisconnected, FeedAborted: transient.
        SourceRefused, TableUnusable: permanent.
    """
    try:
        with watch.expect(seconds, lambda: shut(connection)):
            yield
    except (reql.ReqlError, OSError, AttributeError) as err:
        # AttributeError: the driver uses the socket that it forgot when the connection ended.
        if isinstance(err, AttributeError) and "NoneType" not in str(err):
            raise
        raise translate(err, str(table)) from err


def translate(err: Exception, table: str) -> ReplicatorError:
    """Return what an error of the driver means for a feed of this table."""
    text = _line(err)
    if isinstance(err, reql.ReqlAuthError):
        return SourceRefused(f"RethinkDB refuses the user: {text}", hint="check rethinkdb.url")
    if isinstance(err, reql.ReqlPermissionError) or _DENIED in text:
        return SourceRefused(
            f"no permission to read {table}: {text}",
            hint=f"grant it: {_query_of(table)}.grant(USER, {{read: true}})",
        )
    if isinstance(err, reql.ReqlDriverError | OSError | AttributeError) or "is closed" in text:
        return FeedDisconnected(
            f"the connection to RethinkDB was lost: {text}",
            hint="look at RethinkDB's log, and at the network in between",
        )
    if isinstance(err, reql.ReqlRuntimeError) and "does not exist" in text:
        return TableUnusable(
            f"there is no table {table}: {text}",
            hint="check --table and tables[].name, or create the table",
        )
    return FeedAborted(
        f"RethinkDB ended the query on {table}: {text}",
        hint=f"look at its replicas: {_query_of(table)}.status(); if they are well, at RethinkDB's "
        "log",
    )


def _query_of(table: str) -> str:
    """Return a table as a query names it."""
    database, _, name = table.partition(".")
    return f"r.db('{database}').table('{name}')"


def _line(err: BaseException) -> str:
    """Return the first line of an error: the driver adds the query, with a drawing."""
    text = str(getattr(err, "message", None) or err).strip()
    return text.splitlines()[0] if text else type(err).__name__


def _reason(err: BaseException, host: str, port: int) -> str:
    """Return why there is no connection: what answers there, if that is not RethinkDB."""
    line = _line(err)
    # What follows the driver's ``Could not connect to host:port. Error: ``.
    line = line.partition("Error: ")[2] or line
    # With an error of the operating system there was no connection, or there is none any more.
    return line if "[Errno" in line else _stranger(host, port) or line


def _stranger(host: str, port: int) -> str:
    """Say what a port seems to speak that took a connection; empty if it may be RethinkDB."""
    try:
        with socket.create_connection((host, port), _GREETING_SECONDS) as link:
            link.sendall(REQUEST)
            answer = link.recv(MAX_BYTES)
    except OSError:
        return ""
    spoken = seems_to_speak(answer) if answer else RETHINKDB
    return "" if spoken in {RETHINKDB, TLS} else f"it speaks {spoken}, {_STRANGER}"
