"""RethinkDB's URL at a port where another server answers: it is said which, here and in `check`."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.errors import SourceUnavailable
from replicator.source import connection as connection_module
from replicator.source.connection import Server, connect
from tests.support.command import command_line
from tests.support.rethink import RealRethinkDB, find_rethinkdb

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    # The driver leaks the sockets of servers that hang up.
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _impatient_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_GREETING_SECONDS", 1.0)


def refusal(port: int) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as refused:
        connect(Server([("127.0.0.1", port)], "admin", ""))
    return refused.value


@contextmanager
def answering(*says: bytes) -> Iterator[int]:
    """Say this on each connection to a port, and keep it open."""
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                link, _ = listening.accept()
            except OSError:
                return
            kept.append(link)
            link.sendall(b"".join(says))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for link in kept:
        link.close()


def test_rabbitmq_is_recognised(rabbitmq: PrivateRabbitMQ) -> None:
    error = refusal(rabbitmq.port)
    assert "it speaks AMQP, RabbitMQ's protocol, not RethinkDB's" in str(error)
    assert "28015" in str(error.hint)


def test_the_port_of_rethinkdb_s_cluster_is_recognised() -> None:
    if find_rethinkdb() is None:
        pytest.skip("put `rethinkdb` on PATH")
    with RealRethinkDB() as server:
        error = refusal(server.cluster_port)
        assert "it speaks the protocol of RethinkDB's cluster" in str(error)
        assert "28015" in str(error.hint)
        # A server that is only slow is not taken for a stranger.
        assert connection_module._stranger("127.0.0.1", server.port) == ""


def test_a_web_server_is_recognised() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        error = refusal(server.server_port)
        server.shutdown()
        serving.join()
    assert "it speaks HTTP, not RethinkDB's" in str(error)


def test_a_server_that_says_nothing_is_waited_for_in_vain() -> None:
    with answering() as port:
        error = refusal(port)
    assert "timed out" in str(error)
    assert "28015" not in str(error.hint)


def test_a_stranger_s_escape_sequences_are_not_repeated() -> None:
    with answering(b"hello\x1b[31m\0") as port:
        error = refusal(port)
    assert "another protocol ('hello')" in str(error)
    assert "\x1b" not in str(error)


def test_the_preflight_says_it(
    rabbitmq: PrivateRabbitMQ, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with command_line(monkeypatch, capsys) as run:
        url = f"rethinkdb://127.0.0.1:{rabbitmq.port}"
        done = run("check", "--json", "--table", "a.b", "--rethinkdb", url, "--http", "off")
    (line,) = [line for line in done.objects if line["part"] == "rethinkdb"]
    assert "RabbitMQ's protocol" in line["message"]
    assert "Expecting value" not in done.out + done.err
