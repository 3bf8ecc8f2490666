"""The adapter of the driver, and what the rest relies on: fails when the driver changes."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import errors as reql
from rethinkdb import net, r

from replicator.source.driver import Payload, adopt, close, shut
from tests.support.driver import ABORTED, ATOM, CONTINUE, PARTIAL, SimulatedSocket, connection_over


class Wire(NamedTuple):
    """An adopted connection of the driver's and the server's end of its socket."""

    connection: Any
    theirs: socket.socket

    def receive(self, length: int, deadline: float | None = None) -> Any:
        return self.connection._instance._socket.recvall(length, deadline)


def open_wrapper(sock: socket.socket) -> Any:
    """Return the driver's wrapper of a socket as it is after the handshake."""
    wrapper = object.__new__(net.SocketWrapper)
    wrapper.host, wrapper.port = "127.0.0.1", 28015
    wrapper._read_buffer, wrapper._socket = None, sock
    return wrapper


@pytest.fixture
def wire() -> Iterator[Wire]:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    with listener, ours, theirs:
        connection = connection_over(open_wrapper(ours))
        adopt(connection)
        yield Wire(connection, theirs)


# What the adapter does.


def test_the_socket_is_kept_alive(wire: Wire) -> None:
    kept = wire.connection.kept_socket

    assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_a_read_that_waits_is_ended_from_another_thread(wire: Wire) -> None:
    threading.Timer(0.3, shut, [wire.connection]).start()

    with pytest.raises(reql.ReqlDriverError, match=r"Connection is closed\."):
        wire.receive(3, time.time() + 20)


def test_a_connection_whose_peer_is_gone_is_closed_all_the_same(wire: Wire) -> None:
    """The driver forgets the socket of such a connection, and leaves it open."""
    wire.theirs.close()
    with pytest.raises(reql.ReqlDriverError, match=r"Connection is closed\."):
        wire.receive(3)
    close(wire.connection)
    close(wire.connection)

    assert wire.connection.kept_socket.fileno() == -1
    shut(wire.connection)


def test_half_a_surrogate_pair_reaches_the_decoder_as_an_escape() -> None:
    texts: list[str] = []

    class Decoder:
        def __init__(self, _options: object = None) -> None:
            """Take no options."""

        def decode(self, text: str) -> dict[str, object]:
            texts.append(text)
            return {"t": PARTIAL, "r": []}

    sent = b'{"t":3,"r":["\xed\xb1\x8b hello"]}'
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = connection_over(open_wrapper(ours))
        connection.kept_socket = None
        wrap(connection)
        theirs.sendall(bytes(8) + len(sent).to_bytes(4, "little") + sent)
        r.table("t").changes().run(connection, json_decoder=Decoder)

    assert texts == ['{"t":3,"r":["\\udc4b hello"]}']


def wrap(connection: Any) -> None:
    """Adopt a connection over a socket that is not one of TCP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("replicator.source.driver._KEEPALIVE", ())
        adopt(connection)


@given(st.binary())
def test_whatever_is_sent_can_be_decoded(sent: bytes) -> None:
    text = Payload(sent).decode()

    try:
        assert text == sent.decode()
    except UnicodeDecodeError:
        assert "\\u" in text or "\N{REPLACEMENT CHARACTER}" in text


def test_a_poll_is_a_short_wait_so_that_tls_has_nothing_to_say_against_it() -> None:
    """The driver takes what a TLS socket raises when it is polled for a lost connection."""

    class Polled:
        timeout: float | None = None

        def settimeout(self, timeout: float | None) -> None:
            self.timeout = timeout

        def recv(self, _length: int) -> bytes:
            if self.timeout == 0:
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the read did not complete")
            raise TimeoutError

    connection = connection_over(open_wrapper(Polled()))  # type: ignore[arg-type]
    wrapper = connection._instance._socket
    with pytest.raises(reql.ReqlDriverError, match="did not complete"):
        wrapper.recvall(12, time.time())
    wrap(connection)

    with pytest.raises(reql.ReqlTimeoutError):
        wrapper.recvall(12, time.time())


def test_a_read_waits_until_its_deadline_and_can_be_repeated(wire: Wire) -> None:
    began = time.monotonic()
    with pytest.raises(reql.ReqlTimeoutError):
        wire.receive(3, time.time() + 0.25)
    assert 0.2 <= time.monotonic() - began < 10
    with pytest.raises(reql.ReqlTimeoutError):
        wire.receive(3, time.time() - 1)
    wire.theirs.sendall(b"abcd")

    assert wire.receive(3, time.time() + 20) == b"abc"
    assert wire.receive(1, time.time() + 20) == b"d"
    assert isinstance(wire.receive(0), Payload)


def test_what_has_begun_is_waited_for_beyond_the_deadline(wire: Wire) -> None:
    """A response is not to be cut in two; the watchdog ends what takes too long."""
    wire.theirs.sendall(b"ab")
    threading.Timer(0.5, wire.theirs.sendall, [b"c"]).start()

    assert wire.receive(3, time.time() + 0.1) == b"abc"


# What `Changefeed` and `Completeness` rely on: when the driver asks for more, and when it decodes.


class Server(SimulatedSocket):
    """Notes what the driver does, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def sent(self, kind: int, token: int) -> None:
        self.events.append("ask" if kind == CONTINUE else f"query {token}")

    def feed(self, *batches: list[int]) -> None:
        for batch in batches:
            self.respond(0, PARTIAL, batch)


@pytest.fixture
def server() -> Server:
    return Server()


def opened(server: Server, first: list[int]) -> Any:
    """Open a feed whose first response has these elements."""

    class Decoder(net.ReQLDecoder):  # type: ignore[misc]
        def decode(self, text: str) -> Any:
            server.events.append("decode")
            return super().decode(text)

    server.feed(first)
    cursor = r.table("t").changes().run(connection_over(server), json_decoder=Decoder)
    assert server.events == ["query 0", "decode", "ask"]
    assert cursor.outstanding_requests == 1
    server.events.clear()
    return cursor


def take(cursor: Any) -> list[int]:
    """Take a batch as `OpenFeed.next_batch` does."""
    batch = [cursor.next(wait=1), *cursor.items]
    cursor.items.clear()
    return batch


def ping(cursor: Any) -> None:
    r.table("t").is_empty().run(cursor.conn._parent)


def test_more_is_asked_for_when_a_response_came_and_before_it_is_decoded(server: Server) -> None:
    cursor = opened(server, [1])
    assert take(cursor) == [1]
    server.feed([2, 3])

    assert take(cursor) == [2, 3]
    assert server.events == ["ask", "decode"]
    assert cursor.outstanding_requests == 1


def test_nothing_is_received_while_something_is_unread(server: Server) -> None:
    cursor = opened(server, [1, 2])
    server.feed([3])

    assert [cursor.next(wait=1), cursor.next(wait=1)] == [1, 2]
    assert server.events == []
    assert cursor.next(wait=1) == 3


def test_after_an_empty_first_response_the_next_one_asks_for_nothing(server: Server) -> None:
    cursor = opened(server, [])
    server.feed([1])
    assert take(cursor) == [1]
    assert server.events == ["decode"]
    assert cursor.outstanding_requests == 0
    server.feed([2])

    assert take(cursor) == [2]
    assert server.events == ["decode", "ask", "ask", "decode"]


def test_of_two_responses_that_come_during_a_query_the_second_asks_for_nothing(
    server: Server,
) -> None:
    cursor = opened(server, [1])
    take(cursor)
    server.feed([2], [3])
    server.respond(1, ATOM, [False])
    ping(cursor)

    assert server.events == ["query 1", "ask", "decode", "decode"]
    assert list(cursor.items) == [2, 3]
    assert cursor.outstanding_requests == 0


def test_an_abort_that_comes_during_a_query_is_kept_for_the_next_read(server: Server) -> None:
    cursor = opened(server, [1])
    take(cursor)
    server.respond(0, ABORTED, ["Changefeed aborted (unavailable)."])
    server.respond(1, ATOM, [False])
    ping(cursor)

    assert isinstance(cursor.error, reql.ReqlOpFailedError)
    with pytest.raises(reql.ReqlOpFailedError):
        cursor.next(wait=1)


def test_a_read_that_nothing_came_for_can_be_repeated(server: Server) -> None:
    cursor = opened(server, [1])
    take(cursor)
    with pytest.raises(reql.ReqlTimeoutError):
        cursor.next(wait=1)
    server.feed([2])

    assert take(cursor) == [2]
