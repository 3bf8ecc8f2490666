"""The embedded RethinkDB fails when, and only as, it is told to."""

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from rethinkdb import r
from rethinkdb.errors import ReqlDriverError, ReqlOpFailedError, ReqlTimeoutError

from tests.support.rethink import driver_socket
from tests.support.tls import make_certificates
from tests.support.wait import wait_until


@pytest.fixture
def server() -> Iterator[EmbeddedRethinkDB]:
    with EmbeddedRethinkDB(poll_seconds=0.05) as running:
        yield running


@pytest.fixture
def conn(server: EmbeddedRethinkDB) -> Iterator[Any]:
    connection = r.connect(host=server.host, port=server.port)
    yield connection
    connection.close(noreply_wait=False)


@pytest.fixture
def table(conn: Any) -> Any:
    r.table_create("things").run(conn)
    return r.table("things")


def _connect(server: EmbeddedRethinkDB, **options: Any) -> Any:
    return r.connect(host=server.host, port=server.port, **options)


def _greeting(server: EmbeddedRethinkDB) -> bytes:
    """Return the start of what the server says to a client; nothing when it hangs up.

    A socket of the test's own: the driver leaks the one that it failed to connect with.
    """
    with socket.create_connection((server.host, server.port), timeout=5) as client:
        try:
            client.sendall(b"\xc3\xbd\xc24{}\0\0\0\0")
            return client.recv(32)
        except ConnectionError:
            return b""


def test_the_url_names_the_port(server: EmbeddedRethinkDB) -> None:
    assert server.url == f"rethinkdb://admin@127.0.0.1:{server.port}"


def test_two_servers_share_nothing(server: EmbeddedRethinkDB, table: Any) -> None:
    assert "things" in str(table)
    with EmbeddedRethinkDB() as other, _connect(other) as connection:
        assert other.port != server.port
        assert r.table_list().run(connection) == []


def test_a_port_that_is_taken_is_an_error_at_start(server: EmbeddedRethinkDB) -> None:
    with pytest.raises(OSError, match="in use"):
        EmbeddedRethinkDB(port=server.port).start()


def test_stopping_closes_connections_and_the_port(table: Any) -> None:
    assert "things" in str(table)
    server = EmbeddedRethinkDB()
    server.start()
    with _connect(server) as connection:
        server.stop()
        assert driver_socket(connection).recv(1) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((server.host, server.port), timeout=1)
    server.stop()


def test_dropped_connections_look_closed_to_their_readers(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    feed = table.changes().run(conn)
    with driver_socket(conn):
        assert server.drop_connections() == 1
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            feed.next(wait=5)
    with _connect(server) as again:
        assert r.expr(1).run(again) == 1


def test_an_ordered_overflow_is_told_in_the_feed(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    feed = table.changes().run(conn)
    assert server.overflow_feeds("test.other") == 0
    assert server.overflow_feeds("test.things") == 1
    error = feed.next(wait=5)["error"]
    assert error == "Changefeed cache over array size limit, skipped 1 elements."
    table.insert({"id": 1}).run(conn)
    assert feed.next(wait=5)["new_val"] == {"id": 1}


def test_aborted_feeds_end_with_the_message(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    feed = table.changes().run(conn)
    assert server.abort_feeds(message="primary replica not available") == 1
    with pytest.raises(ReqlOpFailedError, match="primary replica not available"):
        feed.next(wait=5)
    assert table.count().run(conn) == 0


def test_a_silent_server_accepts_and_says_nothing(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    feed = table.changes().run(conn)
    with _connect(server) as writer:
        server.go_silent()
        table.insert({"id": 1}).run(writer, noreply=True)
        with pytest.raises(ReqlTimeoutError):
            feed.next(wait=0.2)
        with pytest.raises(ReqlTimeoutError):
            _connect(server, timeout=0.2)
        server.go_silent(on=False)
        assert feed.next(wait=5)["new_val"] == {"id": 1}
    with _connect(server) as again:
        assert table.count().run(again) == 1


def test_a_refusing_server_keeps_its_connections(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    server.refuse()
    assert _greeting(server) == b""
    assert table.count().run(conn) == 0
    server.refuse(on=False)
    with _connect(server) as again:
        assert table.count().run(again) == 0


def test_responses_come_later_when_delayed(server: EmbeddedRethinkDB, conn: Any) -> None:
    server.delay(0.2)
    started = time.monotonic()
    assert r.expr(1).run(conn) == 1
    assert time.monotonic() - started >= 0.2
    server.delay(0)
    started = time.monotonic()
    assert r.expr(1).run(conn) == 1
    assert time.monotonic() - started < 0.2


def test_a_stalled_message_stops_in_its_middle_and_can_go_on(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    with _connect(server) as reader:
        feed = table.changes().run(reader)
        server.stall_mid_message()
        table.insert({"id": 1, "text": "x" * 1000}).run(conn)
        receiving = driver_socket(reader)
        # The other connection works; this one has half a message and nothing more.
        received = wait_until(lambda: _peek(receiving), what="half a message")
        assert 0 < len(received) < 1000
        assert table.count().run(conn) == 1
        assert _peek(receiving) == received
        server.stall_mid_message(on=False)
        assert feed.next(wait=5)["new_val"]["id"] == 1


def _peek(connection: socket.socket) -> bytes:
    connection.settimeout(0)
    try:
        return connection.recv(65536, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    finally:
        connection.settimeout(None)


def test_a_held_ready_keeps_the_snapshot_open(
    server: EmbeddedRethinkDB, conn: Any, table: Any
) -> None:
    server.hold_ready()
    table.insert({"id": 1}).run(conn)
    feed = table.changes(include_initial=True, include_states=True).run(conn)
    assert feed.next(wait=5) == {"state": "initializing"}
    assert feed.next(wait=5) == {"new_val": {"id": 1}}
    with pytest.raises(ReqlTimeoutError):
        feed.next(wait=0.2)
    table.insert({"id": 2}).run(conn)
    assert feed.next(wait=5)["new_val"] == {"id": 2}
    server.hold_ready(on=False)
    assert feed.next(wait=5) == {"state": "ready"}


def test_an_unknown_fault_is_an_error(server: EmbeddedRethinkDB) -> None:
    with pytest.raises(ValueError, match="no such fault: explode"):
        server.switch("explode")


def test_an_unsupported_term_is_a_compile_error(conn: Any) -> None:
    with pytest.raises(Exception, match="Unrecognized TermType: 159") as refusal:
        r.point(1, 2).run(conn)
    assert type(refusal.value).__name__ == "ReqlServerCompileError"


def test_an_unsupported_term_is_refused_before_anything_runs(conn: Any, table: Any) -> None:
    with pytest.raises(Exception, match="Unrecognized TermType"):
        r.expr([table.insert({"id": 1}), r.point(1, 2)]).run(conn)
    assert table.count().run(conn) == 0


def test_it_speaks_tls_when_it_has_a_certificate(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    with EmbeddedRethinkDB(tls=context) as server:
        options = {"ssl": {"ca_certs": str(certificates.ca.cert)}}
        with r.connect(host="localhost", port=server.port, **options) as connection:
            assert r.expr(1).run(connection) == 1
        assert not _greeting(server).startswith(b"{")
