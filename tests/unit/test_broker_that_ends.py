"""A broker that ends just after it accepted a connection: pika takes it for a wrong argument."""

import errno
import socket
import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from replicator.errors import BrokerUnavailable
from replicator.metrics import Metrics
from replicator.publisher.broker import Broker, connect
from replicator.publisher.connection_state import ConnectionState
from replicator.publisher.link import Link


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that accepts, and whose connections are gone when they are looked at."""

    def gone(_self: socket.socket) -> Any:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(socket.socket, "getpeername", gone)
        yield server.getsockname()[1]


def test_declaring_can_be_tried_again(port: int) -> None:
    broker = Broker([("127.0.0.1", port)], "guest", "guest", "/", "rethinkdb")

    with pytest.raises(BrokerUnavailable, match="Transport endpoint is not connected"):
        connect(broker)


def test_publishing_can_be_tried_again(port: int) -> None:
    state = ConnectionState(Metrics(), time.time)
    parameters = pika.ConnectionParameters("127.0.0.1", port)
    nobody: Any = None
    link = Link(parameters, state, nobody, fence="fence", probes=[])

    with pytest.raises(BrokerUnavailable, match="Transport endpoint is not connected"):
        link.run()

    assert not state.is_open
    link.call_soon(lambda: pytest.fail("called on a loop that has ended"))


def test_another_wrong_argument_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_parameters: object) -> None:
        raise ValueError("a wrong argument")

    monkeypatch.setattr(pika, "BlockingConnection", refuse)

    with pytest.raises(ValueError, match="a wrong argument"):
        connect(Broker([("127.0.0.1", 1)], "guest", "guest", "/", "rethinkdb"))
