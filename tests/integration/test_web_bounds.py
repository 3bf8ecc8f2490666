"""The HTTP server against clients that mean it no good, over real sockets."""

import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from replicator.config import load_settings
from replicator.web import bounds, server
from replicator.web.server import Verdict, WebServer
from tests.support.observed import FakeService
from tests.support.wait import wait_until

_MOST = 4
_SECONDS = 1.0


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A server with small bounds."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", _MOST)
    monkeypatch.setattr(server, "REQUEST_SECONDS", _SECONDS)
    monkeypatch.setattr(server, "REPLY_SECONDS", _SECONDS)
    monkeypatch.setattr(bounds, "_UNREAD_SECONDS", _SECONDS)
    service = FakeService()
    service.metrics *= 200_000  # more than sockets keep
    serving = WebServer("127.0.0.1", 0, service)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join(20)
    wait_until(lambda: not serving.connections, 20, "the end of all connections")


class Client(contextlib.ExitStack):
    """A raw connection that is closed with the test."""

    def __init__(self, web: WebServer) -> None:
        super().__init__()
        self._socket = socket.create_connection(web.server_address[:2], timeout=20)
        self.callback(self._socket.close)

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def answer(self) -> bytes:
        """Read until the server closes."""
        return b"".join(iter(lambda: self._socket.recv(65536), b""))

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
    assert answer.startswith(b"HTTP/1.0 "), answer[:100]
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
        (b"GET zebra zebra zebra zebra\r\n\r\n", 400),
        (b"zebra\r\n\r\n", 400),
        (b"ZEBRA / HTTP/1.1\r\n\r\n", 405),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 5\r\n\r\nzebra", 405),
        (b"GET / HTTP/zebra\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00zebra\r\n\r\n", 400),  # the beginning of TLS
        (b"GET / HTTP/1.1\r\nzebra" + b"a" * bounds.MAX_REQUEST_BYTES + b"\r\n\r\n", 431),
        (b"GET /zebra" + b"a" * bounds.MAX_REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"zebra: a\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_what_is_no_good_request_is_refused_and_nothing_of_it_is_repeated(
    web: WebServer, request_head: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = ask(web, request_head)

    assert status_of(answer) == status
    assert b"zebra" not in answer.lower()
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert is_alive(web)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", [b"PUT", b"GET"])
def test_who_is_still_sending_a_body_gets_the_answer_all_the_same(
    web: WebServer, method: bytes
) -> None:
    with Client(web) as client:
        client.send(method + b" /livez HTTP/1.1\r\nContent-Length: 50000\r\n\r\n")
        wait_until(client.has_ended, 20, "the answer")
        for _ in range(50):
            client.send(b"x" * 1000)  # the second of these would be refused by a closed socket
        assert status_of(client.answer()) == (200 if method == b"GET" else 405)


def test_only_one_request_of_a_connection_is_answered(web: WebServer) -> None:
    answer = ask(web, b"GET /livez HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 50)

    assert answer.count(b"HTTP/1.0 200") == 1


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


def test_a_client_that_sends_a_byte_now_and_then_is_told_that_its_time_is_over(
    web: WebServer,
) -> None:
    with Client(web) as slow:
        slow.send(b"GET /livez HTTP/1.1\r\nX: ")
        # Each byte comes long before a timeout of a single read.
        wait_until(lambda: slow.has_ended(still_sending=b"x"), 20, "the end of its time")
        assert status_of(slow.answer()) == 408


def test_a_client_that_sends_nothing_is_let_go(web: WebServer) -> None:
    with Client(web) as silent:
        assert status_of(silent.answer()) == 408
    wait_until(lambda: not web.connections, 20, "its place is free")


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
    monkeypatch.setattr(server, "REQUEST_SECONDS", 600.0)
    before = threading.active_count()
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(20 * _MOST):
            client = Client(web)
            stack.enter_context(client)
            clients.append(client)
            client.send(b"GET /livez HTTP/1.1\r\n")
            assert len(web.connections) <= _MOST
            # One is being taken in while the oldest ends.
            assert threading.active_count() <= before + _MOST + 1
        assert is_alive(web)
        wait_until(lambda: sum(each.has_ended() for each in clients) >= 19 * _MOST, 20, "the end")
        # Those who came last are still heard.
        clients[-1].send(b"\r\n")
        assert status_of(clients[-1].answer()) == 200


def test_it_listens_on_loopback_unless_it_is_told_otherwise() -> None:
    listen = load_settings(environ={}, require_tables=False).http.listen

    assert listen is not None
    assert listen.host == "127.0.0.1"


def test_answers_that_take_long_do_not_keep_the_server_from_ending(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_ROOM_SECONDS", 0.1)
    go_on = threading.Event()
    asked = threading.Semaphore(0)

    class BusyService(FakeService):
        def liveness(self) -> Verdict:
            asked.release()
            go_on.wait(20)
            return super().liveness()

    web.observed = BusyService()
    address = (web.server_address[0], web.server_port)
    with contextlib.ExitStack() as clients:
        for _ in range(_MOST):
            client = clients.enter_context(socket.create_connection(address, timeout=20))
            client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        for _ in range(_MOST):
            assert asked.acquire(timeout=20)
        late = clients.enter_context(socket.create_connection(address, timeout=20))
        late.sendall(b"GET /livez HTTP/1.0\r\n\r\n")

        try:
            answer = late.recv(1)
        except ConnectionResetError:
            answer = b""
        assert answer == b"", "it was served, and should have been turned away"
        go_on.set()
