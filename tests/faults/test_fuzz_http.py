"""The HTTP server against whatever a socket can send: bytes, halves of requests, slowness, crowds.

Each is answered with a status of HTTP or let go, nothing of it is repeated, nothing is printed,
and the probes are answered all the while. tests/integration/test_web_bounds.py has the bounds one
by one.
"""

import contextlib
import http.client
import json
import re
import socket
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.web import server
from replicator.web.server import MAX_CONNECTIONS, WebServer
from tests.faults.fuzzing import fuzz
from tests.support.observed import FakeService
from tests.support.wait import wait_until
from tests.support.web import PATIENCE, serving

# What is not HTTP is answered with a status alone.
NOT_HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 (Continue)\r\n\r\n"
ANSWER = re.compile(rb"HTTP/1\.1 ([2345]\d\d) [ -~]+\r\n([\w-]+: [ -~]*\r\n)+\r\n", re.DOTALL)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    # Impatient, so that the slow ones are done with soon; the sizes are those of the service.
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 1.0)
    with serving(FakeService()) as web:
        yield web


def connect(web: WebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), timeout=PATIENCE)


def exchange(web: WebServer, *pieces: bytes, is_ended: bool = True) -> bytes:
    """Send, and return all that comes until the server closes; empty when it cut us off."""
    received = b""
    with connect(web) as sock, contextlib.suppress(ConnectionError):
        for piece in pieces:
            sock.sendall(piece)
        if is_ended:
            sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65536):
            received += part
    return received


def is_alive(web: WebServer) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        return (answer.status, json.loads(answer.read())["live"]) == (200, True)


def assert_is_http(answer: bytes) -> int:
    """Check the form of an answer; return its status, 0 when there was none."""
    answer = answer.removeprefix(CONTINUE)
    if not answer:
        return 0
    if answer == NOT_HTTP:
        return 400
    head = ANSWER.match(answer)
    assert head, answer[:500]
    length = re.search(rb"Content-Length: (\d+)\r\n", head[0])
    assert length, head[0]
    body = answer[head.end() :]
    # Nothing after it: one answer to a connection, whatever was sent.
    assert len(body) in (0, int(length[1]))
    if int(head[1]) >= 400 and body and b"application/json" in head[0]:
        assert isinstance(json.loads(body), dict)
    return int(head[1])


METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI"]
PATHS = [b"/", b"/livez", b"/readyz", b"/status", b"/history", b"/metrics", b"*", b"http://["]
PATHS += [
    b"//x",
    b"/%00",
    b"/../../etc/passwd",
    b"/livez?\xff",
    b"/livez#x",
    b"?",
    b"x" * 5000,
    b"http://a/livez",
]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9" * 50, b"HTTP/-1.1", b""]
NAMES = [b"Host", b"Expect", b"Content-Length", b"Transfer-Encoding", b"Connection", b"\xff", b""]
CONTENTS = [b"x", b"100-continue", b"-1", b"9" * 400, b"chunked", b"keep-alive", b"\r", b"a\r\n b"]
LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\0", b""]
REQUESTS = st.builds(
    lambda method, path, version, headers, ends, body: (
        ends[0].join([method + b" " + path + b" " + version, *headers]) + ends[1] * 2 + body
    ),
    st.sampled_from(METHODS) | st.binary(max_size=8),
    st.sampled_from(PATHS) | st.binary(max_size=30),
    st.sampled_from(VERSIONS) | st.binary(max_size=8),
    st.lists(
        st.builds(
            lambda name, content: name + b": " + content,
            st.sampled_from(NAMES) | st.binary(max_size=5),
            st.sampled_from(CONTENTS) | st.binary(max_size=9),
        ),
        max_size=4,
    ),
    st.tuples(st.sampled_from(LINE_ENDS), st.sampled_from(LINE_ENDS)),
    st.binary(max_size=30),
)


@fuzz
@given(request_bytes=REQUESTS | st.binary(max_size=100), cut=st.integers(0, 200))
def test_any_bytes_get_an_answer_of_http_or_none(
    request_bytes: bytes, cut: int, web: WebServer, capfd: pytest.CaptureFixture[str]
) -> None:
    status = assert_is_http(exchange(web, request_bytes))
    assert status in (0, 200, 400, 404, 405, 503)
    method = request_bytes.partition(b" ")[0].strip()
    assert status not in (200, 503) or method in (b"GET", b"HEAD")
    assert_is_http(exchange(web, request_bytes[:cut]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", [method for method in METHODS[2:] if method != b"PRI"])
def test_a_method_that_would_change_something_is_refused(method: bytes, web: WebServer) -> None:
    answer = exchange(web, method + b" /status HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")

    assert assert_is_http(answer) == 405


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 20_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2_000_000,
        b"\n" * 20_000_000,
        b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + b"z" * 20_000_000,
    ],
    ids=["line", "header", "headers", "blank lines", "body"],
)
def test_what_is_huge_is_refused_and_never_kept(sent: bytes, web: WebServer) -> None:
    tracemalloc.start()
    try:
        status = assert_is_http(exchange(web, sent, is_ended=False))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert status in (0, 400, 405)
    assert peak < 2_000_000
    assert is_alive(web)


def test_requests_in_a_row_get_one_answer(web: WebServer) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"

    assert assert_is_http(exchange(web, one * 200)) == 200


def test_the_probes_are_answered_among_many_slow_clients(web: WebServer) -> None:
    beginnings = [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: ", b"\r\n", b"\xff" * 9]
    before = threading.active_count()
    with contextlib.ExitStack() as open_sockets:
        for number in range(6 * MAX_CONNECTIONS):
            sock = open_sockets.enter_context(connect(web))
            # Those that were shut to make room for others are refused a write: that is the bound.
            with contextlib.suppress(ConnectionError):
                sock.sendall(beginnings[number % len(beginnings)])
            assert len(web.connections) <= MAX_CONNECTIONS
            assert threading.active_count() == before
            if number % MAX_CONNECTIONS == 0:
                assert is_alive(web)
        assert is_alive(web)
        # None of them says more, and none is kept for that.
        wait_until(lambda: not web.connections, PATIENCE, "the end of the slow ones")


def test_a_crowd_that_comes_at_once_leaves_nothing_behind(web: WebServer) -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def crowd() -> None:
        while not stop.is_set():
            requests = (b"GET /metrics HTTP/1.1\r\n\r\n", b"nonsense", b"")
            statuses.extend(assert_is_http(exchange(web, sent)) for sent in requests)

    threads = [threading.Thread(target=crowd) for _ in range(8)]
    for each in threads:
        each.start()
    try:
        answered = [is_alive(web) for _ in range(50)]
    finally:
        stop.set()
        for each in threads:
            each.join(PATIENCE)

    assert all(answered)
    assert set(statuses) <= {0, 200, 400}
    assert 200 in statuses
    assert not any(each.is_alive() for each in threads)
