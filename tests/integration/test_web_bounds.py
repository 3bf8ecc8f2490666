"""The HTTP server against clients that mean it no good, over real sockets."""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.config import load_settings
from replicator.web import server
from replicator.web.server import WebServer
from tests.support.observed import FakeService
from tests.support.wait import wait_until
from tests.support.web import serving

_MAX = 4
_SECONDS = 1.0


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A server with small bounds."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", _MAX)
    monkeypatch.setattr(server, "CONNECTION_SECONDS", _SECONDS)
    service = FakeService()
    service.metrics *= 200_000  # more than sockets keep
    with serving(service) as web:
        yield web


class Client(contextlib.ExitStack):
    """A raw connection that is closed with the test."""

    def __init__(self, web: WebServer) -> None:
        super().__init__()
        self._socket = socket.create_connection(("127.0.0.1", web.port), timeout=20)
        self.callback(self._socket.close)

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def answer(self) -> bytes:
        """Read until the server closes; it may cut off whoever has sent too much."""
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := self._socket.recv(65536):
                answer += part
        return bytes(answer)

    def has_ended(self, *, still_sending: bytes = b"") -> bool:
        """Whether the server has answered or closed; sends a little more if it has not."""
        if select.select([self._socket], [], [], 0)[0]:
            return True
        self._socket.sendall(still_sending)
        return False


def ask(web: WebServer, request: bytes) -> bytes:
    with Client(web) as client:
        client.send(request)
        return client.answer()


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def is_alive(web: WebServer) -> bool:
    return status_of(ask(web, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /zebra HTTP/1.1\r\n\r\n", 404),
        (b"GET /status/zebra?zebra HTTP/1.1\r\n\r\n", 404),
        (b"GET /../../zebra HTTP/1.1\r\n\r\n", 404),
        (b"GET http://[zebra HTTP/1.1\r\n\r\n", 400),
        (b"ZEBRA / HTTP/1.1\r\n\r\n", 405),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 5\r\n\r\nzebra", 405),
    ],
)
def test_what_cannot_be_asked_for_is_refused_and_nothing_of_it_is_repeated(
    web: WebServer, request_head: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = ask(web, request_head)

    assert status_of(answer) == status
    assert b"zebra" not in answer.lower()
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert is_alive(web)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET zebra zebra zebra zebra\r\n\r\n",
        b"zebra\r\n\r\n",
        b"GET / HTTP/zebra\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nzebra zebra: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: zebra\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nzebra",
        b"\x16\x03\x01\x02\x00zebra\r\n\r\n",  # the beginning of TLS
    ],
)
def test_what_is_not_http_is_refused_with_a_status_alone(
    web: WebServer, request_head: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(web, request_head) == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert is_alive(web)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nzebra" + b"a" * server.MAX_HEADER_BYTES + b"\r\n\r\n",
        b"GET /zebra" + b"a" * server.MAX_HEADER_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"zebra: a\r\n" * 2000 + b"\r\n",
    ],
)
def test_who_sends_more_than_a_request_is_let_go(
    web: WebServer, request_head: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(web, request_head) == b""
    assert is_alive(web)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", [b"PUT", b"GET"])
def test_who_is_still_sending_a_body_gets_the_answer_all_the_same(
    web: WebServer, method: bytes
) -> None:
    with Client(web) as client:
        client.send(method + b" /livez HTTP/1.1\r\nContent-Length: 50000\r\n\r\n")
        for _ in range(50):
            assert not client.has_ended()
            client.send(b"x" * 1000)
        assert status_of(client.answer()) == (200 if method == b"GET" else 405)


def test_only_one_request_of_a_connection_is_answered(web: WebServer) -> None:
    answer = ask(web, b"GET /livez HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 50)

    assert answer.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    "path", [b"/", b"/status", b"/history", b"/livez", b"/readyz", b"/metrics", b"/no"]
)
def test_every_answer_says_how_it_may_be_used(web: WebServer, path: bytes) -> None:
    head = ask(web, b"HEAD " + path + b" HTTP/1.1\r\n\r\n").decode()

    assert head.endswith("\r\n\r\n")
    assert "\r\nX-Content-Type-Options: nosniff\r\n" in head
    assert "\r\nCache-Control: no-store\r\n" in head
    assert "\r\nContent-Security-Policy: default-src 'none';" in head
    assert "\r\nReferrer-Policy: no-referrer\r\n" in head
    assert "\r\nServer: replicator\r\n" in head
    if "application/json" not in head:  # which is UTF-8 by itself (RFC 8259)
        assert "; charset=utf-8\r\n" in head


def test_a_client_that_sends_a_byte_now_and_then_is_let_go(web: WebServer) -> None:
    with Client(web) as slow:
        slow.send(b"GET /livez HTTP/1.1\r\nX: ")
        # Each byte comes long before a timeout of a single read.
        wait_until(lambda: slow.has_ended(still_sending=b"x"), 20, "the end of its time")
        assert slow.answer() == b""


def test_a_client_that_sends_nothing_is_let_go(web: WebServer) -> None:
    with Client(web) as silent:
        assert silent.answer() == b""
    wait_until(lambda: not web.connections, 20, "its place is free")


def test_a_client_that_does_not_send_the_body_it_promised_is_let_go(web: WebServer) -> None:
    with Client(web) as silent:
        silent.send(b"GET /livez HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc")
        assert silent.answer() == b""


def test_a_client_that_does_not_read_its_answer_is_let_go(
    web: WebServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with Client(web) as deaf:
        deaf.send(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: len(web.connections) == 1, 20, "it is served")
        wait_until(lambda: not web.connections, 20, "its place is free")
    assert capfd.readouterr() == ("", "")


def test_silent_clients_take_no_more_than_their_places_and_keep_nobody_out(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test: it is by their number that they must go.
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 600.0)
    before = threading.active_count()
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(20 * _MAX):
            client = stack.enter_context(Client(web))
            clients.append(client)
            client.send(b"GET /livez HTTP/1.1\r\n")
            assert len(web.connections) <= _MAX
            assert threading.active_count() == before
        assert is_alive(web)
        wait_until(lambda: sum(each.has_ended() for each in clients) >= 19 * _MAX, 20, "the end")
        # Those who came last are still heard.
        clients[-1].send(b"\r\n")
        assert status_of(clients[-1].answer()) == 200


def test_it_listens_on_loopback_unless_it_is_told_otherwise() -> None:
    listen = load_settings(environ={}, require_tables=False).http.listen

    assert listen is not None
    assert listen.host == "127.0.0.1"


def test_an_answer_that_takes_long_does_not_keep_who_stops_the_server_waiting(
    web: WebServer,
) -> None:
    go_on, asked = threading.Event(), threading.Event()

    class BusyService(FakeService):
        def liveness(self) -> dict[str, Any]:
            asked.set()
            go_on.wait(20)
            return super().liveness()

    web.observed = BusyService()
    with Client(web) as client:
        client.send(b"GET /livez HTTP/1.0\r\n\r\n")
        assert asked.wait(20)
        started = time.monotonic()
        web.shut_down()
        assert time.monotonic() - started < 1
        go_on.set()
