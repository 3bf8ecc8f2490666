"""Connections to RethinkDB: opening, keeping alive, and saying what an error means.

The driver has no timeout inside of a message, none for a query, and TCP keepalive of two hours
(read in its source, 2.4.10). So every wait here is watched, and the socket is tuned.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from rethinkdb import errors as reql
from rethinkdb import r

from replicator.errors import (
    FeedAborted,
    FeedDisconnected,
    ReplicatorError,
    SourceRefused,
    SourceUnavailable,
    TableUnusable,
)
from replicator.source.watchdog import Watch
from replicator.source.wire import Wire

_CONNECT_SECONDS: Final = 10
_KEEPALIVE: Final = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 10),
    (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 5),
    (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 3),
    # Milliseconds that sent bytes may stay unacknowledged before the kernel gives up.
    (socket.TCP_USER_TIMEOUT, socket.IPPROTO_TCP, 30_000),
)

# The server's words where the driver has no error of its own for them; a table's name has none
# of them (tests/contract/test_permissions.py).
_DENIED: Final = "does not have the required"


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
            connection = r.connect(
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
            if "certificate verify failed" in str(err).lower():
                raise SourceRefused(
                    f"RethinkDB at {host}:{port} has a certificate that cannot be trusted: "
                    f"{_line(err)}",
                    hint="check rethinkdb.tls_ca_file and the host name in rethinkdb.url",
                ) from err
            failures.append(f"{host}:{port}: {_reason(err)}")
        else:
            # The driver keeps its socket private, and when the peer is gone forgets it without
            # closing it. There is no other way to tune, to shut or to close it.
            connection.kept_socket = connection._instance._socket._socket  # noqa: SLF001
            _keep_alive(connection.kept_socket)
            connection.wire = Wire(connection)
            return connection
    raise SourceUnavailable(
        # In one order, whoever was asked first: it is the same error.
        f"RethinkDB cannot be reached ({'; '.join(sorted(failures))})",
        hint="check that the server runs and that rethinkdb.url is right"
        + _hint_of_tls(failures, is_tls=server.tls_ca_file is not None),
    )


def _hint_of_tls(failures: Iterable[str], *, is_tls: bool) -> str:
    """Add what the two ends' ideas of TLS look like when they differ."""
    said = " ".join(failures)
    if is_tls and "WRONG_VERSION_NUMBER" in said:  # OpenSSL's word for what is no TLS at all
        return "; the port does not speak TLS, which rethinkdb.tls_ca_file turns on"
    if not is_tls and "Connection is closed" in said:
        return "; if the server speaks TLS, set rethinkdb.tls_ca_file"
    return ""


def _require_usable(tls_ca_file: Path | None) -> None:
    """Refuse a CA file with which the driver would only fail, again and again."""
    if tls_ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=str(tls_ca_file))
    except (OSError, ssl.SSLError) as err:
        raise SourceRefused(
            f"rethinkdb.tls_ca_file {tls_ca_file} cannot be used: {err}",
            hint="it must be a file of certificates in PEM form",
        ) from err


def _keep_alive(sock: socket.socket) -> None:
    for option, level, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)


def shut(connection: Any) -> None:
    """End a connection from any thread: whoever reads from it gets an error at once."""
    with contextlib.suppress(OSError):
        connection.kept_socket.shutdown(socket.SHUT_RDWR)


def close(connection: Any) -> None:
    """Close a connection without asking the server; never waits."""
    with contextlib.suppress(reql.ReqlError, OSError):
        connection.close(noreply_wait=False)
    connection.kept_socket.close()


@contextlib.contextmanager
def watched(connection: Any, watch: Watch, seconds: float) -> Iterator[None]:
    """Run queries that must be answered in ``seconds``: the driver itself would wait for ever."""
    with watch.expect(seconds, lambda: shut(connection)):
        yield


@contextlib.contextmanager
def translated(table: str) -> Iterator[None]:
    """Turn the driver's errors into this project's own; each has a test.

    Raises:
        FeedDisconnected, FeedAborted: transient.
        SourceRefused, TableUnusable: permanent.
    """
    try:
        yield
    except (reql.ReqlError, OSError, AttributeError) as err:
        # AttributeError: the driver uses a socket that it dropped when it noticed the end.
        if isinstance(err, AttributeError) and "NoneType" not in str(err):
            raise
        raise translate(err, table) from err


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
    """Return how a table is written in a query."""
    database, _, name = table.partition(".")
    return f"r.db('{database}').table('{name}')"


def _line(err: BaseException) -> str:
    """Return the first line of an error: the driver adds the query, with a drawing."""
    text = str(getattr(err, "message", None) or err).strip()
    return text.splitlines()[0] if text else type(err).__name__


def _reason(err: BaseException) -> str:
    """Return what is behind the driver's ``Could not connect to host:port. Error: …``."""
    line = _line(err)
    return line.partition("Error: ")[2] or line
