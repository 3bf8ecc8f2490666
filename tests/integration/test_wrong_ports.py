"""RabbitMQ's URL at some other port: what seems to answer is said, soon and in plain words."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.errors import BrokerUnavailable
from replicator.publisher import asking
from replicator.publisher import broker as broker_module
from replicator.publisher.broker import Broker
from replicator.publisher.topology import prepare
from tests.support.command import Command, command_line
from tests.support.ports import free_port
from tests.support.servers import RethinkServer
from tests.support.tls import make_certificates

pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")


@dataclass
class Ports:
    http: int
    silent: int
    hanging_up: int
    rethinkdb: int
    nobody: int
    amqp: int
    amqps: int
    distribution: int


@pytest.fixture(scope="module")
def node(
    rabbitmq: PrivateRabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrivateRabbitMQ]:
    del rabbitmq  # skips, or fails in CI, where there is none
    certificates = make_certificates(tmp_path_factory.mktemp("tls"))
    with PrivateRabbitMQ(tls=certificates.of_server()) as started:
        yield started


@pytest.fixture(scope="module")
def ports(node: PrivateRabbitMQ, embedded: RethinkServer) -> Iterator[Ports]:
    web = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    hanging_up = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        while True:
            try:
                hanging_up.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=hang_up, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Ports(
            http=web.server_port,
            silent=silent.getsockname()[1],
            hanging_up=hanging_up.getsockname()[1],
            rethinkdb=embedded.port,
            nobody=free_port(),
            amqp=node.port,
            amqps=node.tls_port or 0,
            distribution=node._dist_port,
        )
    hanging_up.shutdown(socket.SHUT_RDWR)
    hanging_up.close()
    web.shutdown()
    web.server_close()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    monkeypatch.setenv("REPLICATOR_RETHINKDB__URL", "rethinkdb://127.0.0.1:1")
    monkeypatch.setenv("REPLICATOR_TABLES", "shop.mytable")
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    with command_line(monkeypatch, capsys) as run:
        yield run


def rabbitmq_line(cli: Command, url: str) -> Any:
    lines = cli("check", "--json", "--rabbitmq", url).objects
    (line,) = [line for line in lines if line["part"] == "rabbitmq"]
    return line


CASES = [
    ("http", False, "it speaks HTTP, not AMQP"),
    ("http", True, "it speaks HTTP, not AMQP"),
    ("rethinkdb", False, "it speaks RethinkDB's protocol of queries, not AMQP"),
    ("rethinkdb", True, "it speaks RethinkDB's protocol of queries, not AMQP"),
    ("amqps", False, "it speaks TLS: use amqps://"),
    ("amqp", True, "it speaks AMQP without TLS: use amqp://"),
    ("silent", False, "it takes connections and says nothing"),
    ("silent", True, "it takes connections and says nothing"),
    ("distribution", False, "it takes connections and says nothing"),
    ("hanging_up", False, "it hangs up"),
    ("hanging_up", True, "it hangs up"),
    ("nobody", False, "Connection refused"),
]


@pytest.mark.parametrize(("name", "is_tls", "words"), CASES)
def test_what_seems_to_answer_is_said(
    cli: Command,
    ports: Ports,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    *,
    is_tls: bool,
    words: str,
) -> None:
    monkeypatch.setattr(broker_module, "_SOON_SECONDS", 0.5)
    monkeypatch.setattr(asking, "_SECONDS", 0.5)
    port = getattr(ports, name)
    broker = Broker([("localhost", port)], "guest", "guest", "/", "x", is_tls=is_tls)

    line = rabbitmq_line(cli, f"amqp{'s' * is_tls}://guest:guest@localhost:{port}")
    with pytest.raises(BrokerUnavailable) as run:
        prepare(broker, pytest.fail)

    assert line["message"] == str(run.value)
    assert (line["ok"], line["permanent"]) == (False, False)
    assert line["message"] == f"RabbitMQ cannot be reached (localhost:{port}: {words})"
    assert "5672" in line["hint"]


def test_it_is_said_soon(cli: Command, ports: Ports) -> None:
    began = time.monotonic()

    line = rabbitmq_line(cli, f"amqp://localhost:{ports.http}")

    assert "it speaks HTTP" in line["message"]
    assert time.monotonic() - began < 6


def test_a_login_that_takes_longer_is_waited_for(
    node: PrivateRabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SOON_SECONDS", 0.0001)
    broker = Broker([("localhost", node.port)], "guest", "guest", "/", "x")

    assert prepare(broker, pytest.fail).port == node.port


@pytest.mark.parametrize(("port", "words"), [(25672, "its own cluster"), (4369, "Erlang")])
def test_silent_ports_of_rabbitmq_are_known_by_number(
    monkeypatch: pytest.MonkeyPatch, port: int, words: str
) -> None:
    monkeypatch.setattr(asking, "_answer", lambda *_: None)

    assert words in asking.what_answers("localhost", port, is_tls=False)
