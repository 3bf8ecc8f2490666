"""The short way over the driver's connection: the bytes and the errors of the driver's own."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rethinkdb import errors as reql
from rethinkdb import net
from rethinkdb.ql2_pb2 import Query

from replicator.source import wire
from replicator.source.wire import Payload, Wire


class Wrapper:
    """The driver's wrapper of a socket, as far as it is used."""

    host, port = "127.0.0.1", 28015

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.is_closed = False

    def recvall(self, length: int, _deadline: float | None) -> bytes:
        return b"by the driver"[:length]

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self.is_closed = True


class Connection:
    """The driver's connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.wrapper = Wrapper(sock)
        self._instance = type("Instance", (), {"_socket": self.wrapper})
        self._continue: Any = None
        self.is_open = True
        self.wire = Wire(self)

    def check_open(self) -> None:
        if not self.is_open:
            raise reql.ReqlDriverError("Connection is closed.")


Pair = tuple[Connection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours)
        yield connection, theirs


@given(
    st.lists(st.integers(0, 200), max_size=20),
    st.lists(st.integers(1, 300), min_size=1),
)
@example([70_000, 12, 1_000_000, 3], [65_000, 64])
def test_bytes_come_as_they_were_sent_in_whatever_pieces(
    lengths: list[int], sizes: list[int]
) -> None:
    ours, theirs = socket.socketpair()
    messages = [bytes([number % 256]) * length for number, length in enumerate(lengths)]
    data = b"".join(messages)

    def send() -> None:
        start = turn = 0
        while start < len(data):
            size = sizes[turn % len(sizes)]
            theirs.sendall(data[start : start + size])
            start, turn = start + size, turn + 1

    with ours, theirs:
        connection = Connection(ours)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        taken = [connection.wrapper.recvall(len(each), time.time() + 20) for each in messages]
        sender.join(20)

    assert taken == messages
    assert all(isinstance(each, Payload) for each in taken)


def test_a_read_waits_until_its_deadline_and_can_be_repeated(pair: Pair) -> None:
    connection, theirs = pair
    began = time.monotonic()
    with pytest.raises(reql.ReqlTimeoutError):
        connection.wrapper.recvall(3, time.time() + 0.25)
    assert 0.25 <= time.monotonic() - began < 10
    with pytest.raises(reql.ReqlTimeoutError):
        connection.wrapper.recvall(3, time.time() - 1)
    theirs.sendall(b"abcd")

    assert connection.wrapper.recvall(3, time.time() + 20) == b"abc"
    assert connection.wrapper.recvall(1, time.time() - 1) == b"d"
    assert not connection.wrapper.is_closed


def test_what_has_begun_is_waited_for_beyond_the_deadline(pair: Pair) -> None:
    """As the driver does: a response is not to be cut in two."""
    connection, theirs = pair
    theirs.sendall(b"ab")
    threading.Timer(0.5, theirs.sendall, [b"c"]).start()

    assert connection.wrapper.recvall(3, time.time() + 0.1) == b"abc"


def test_without_a_deadline_it_waits_also_after_a_read_that_had_one(pair: Pair) -> None:
    connection, theirs = pair
    with pytest.raises(reql.ReqlTimeoutError):
        connection.wrapper.recvall(1, time.time() + 0.1)
    threading.Timer(0.5, theirs.sendall, [b"c"]).start()

    assert connection.wrapper.recvall(1, None) == b"c"


def test_the_end_of_the_connection_is_the_driver_s_own_error(pair: Pair) -> None:
    connection, theirs = pair
    theirs.sendall(b"ab")
    theirs.close()
    with pytest.raises(reql.ReqlDriverError, match=r"Connection is closed\."):
        connection.wrapper.recvall(3, None)

    assert connection.wrapper.is_closed


def test_a_reader_that_waits_is_ended_from_another_thread(pair: Pair) -> None:
    connection, _theirs = pair
    threading.Timer(0.3, connection.wrapper._socket.shutdown, [socket.SHUT_RDWR]).start()
    with pytest.raises(reql.ReqlDriverError, match=r"Connection is closed\."):
        connection.wrapper.recvall(3, time.time() + 20)


def test_a_socket_that_was_closed_is_the_driver_s_own_error(pair: Pair) -> None:
    connection, _theirs = pair
    connection.wrapper._socket.close()
    with pytest.raises(reql.ReqlDriverError, match="Bad file descriptor"):
        connection.wrapper.recvall(3, None)

    assert connection.wrapper.is_closed


def cursor(token: int = 7) -> Any:
    return SimpleNamespace(query=SimpleNamespace(token=token))


def request(token: int = 7) -> bytes:
    """Make a request for more as the driver makes it."""
    return net.Query(Query.QueryType.CONTINUE, token, None, None).serialize()


def sent(theirs: socket.socket) -> bytes:
    try:
        return theirs.recv(100, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("token", [1, 2**40, 2**63 - 1])
def test_more_is_asked_for_as_the_driver_asks(pair: Pair, token: int) -> None:
    connection, theirs = pair
    connection._continue(cursor(token))
    assert connection.wire.ask_for_more()

    assert sent(theirs) == request(token)


def test_behind_a_small_response_more_is_asked_for_when_somebody_waits_for_it(pair: Pair) -> None:
    connection, theirs = pair
    theirs.sendall(b"ab")
    connection.wrapper.recvall(1, None)
    connection._continue(cursor())
    assert sent(theirs) == b""
    connection.wrapper.recvall(1, None)

    assert sent(theirs) == request()
    assert not connection.wire.ask_for_more()
    assert sent(theirs) == b""


def test_behind_a_large_response_more_is_asked_for_at_once(pair: Pair) -> None:
    connection, theirs = pair
    theirs.sendall(b"x" * 70_000)
    connection.wrapper.recvall(70_000, None)
    connection._continue(cursor())

    assert sent(theirs) == request()
    assert not connection.wire.ask_for_more()


def test_a_large_response_is_whole_also_when_nothing_can_be_asked_any_more(pair: Pair) -> None:
    connection, theirs = pair
    theirs.sendall(b"x" * 70_000)
    connection.wrapper.recvall(70_000, None)
    connection.is_open = False
    connection._continue(cursor())
    theirs.close()

    with pytest.raises(reql.ReqlDriverError):
        connection.wrapper.recvall(12, None)


def test_no_request_is_lost_when_another_cursor_asks(pair: Pair) -> None:
    connection, theirs = pair
    connection._continue(cursor(1))
    connection._continue(cursor(2))
    connection.wire.ask_for_more()

    assert sent(theirs) == request(1) + request(2)


def test_nothing_is_asked_of_a_connection_that_is_closed(pair: Pair) -> None:
    connection, _theirs = pair
    connection._continue(cursor())
    connection.is_open = False
    with pytest.raises(reql.ReqlDriverError):
        connection.wrapper.recvall(1, None)


def test_where_the_kernel_s_form_of_a_time_is_not_known_the_driver_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "_IS_TIMEVAL_KNOWN", False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Connection(ours).wrapper.recvall(6, None) == b"by the"


def test_with_tls_the_driver_reads() -> None:
    class Tls(ssl.SSLSocket):
        def __init__(self) -> None:
            """Be no socket at all."""

    connection = Connection(Tls.__new__(Tls))

    assert connection.wrapper.recvall(6, None) == b"by the"
    assert isinstance(connection.wrapper.recvall(6, None), Payload)
