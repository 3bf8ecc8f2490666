"""When the publisher's thread connects, retries, gives up and stops; without a broker."""

import gc
import socket
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pika
import pytest
from pika import exceptions

from replicator import retry
from replicator.errors import BrokerRefused, BrokerUnavailable
from replicator.publisher import asking
from replicator.publisher import broker as broker_module
from replicator.publisher import publisher as publisher_module
from replicator.publisher import topology as topology_module
from replicator.publisher.topology import prepare
from replicator.retry import Backoff
from tests.support.publishing import broker_at, idle_publisher


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A broker that accepts and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def test_a_publisher_that_was_stopped_does_not_connect() -> None:
    found = idle_publisher()
    found.stop()
    found.run()

    assert found.status().error is None


# Its socket is left to the end of the process: pika cannot close what it is opening.
LEAVES_ITS_SOCKET = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@LEAVES_ITS_SOCKET
def test_a_publisher_that_is_stopped_while_it_connects_ends(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = listener.getsockname()
    parameters = pika.ConnectionParameters(host, port)
    monkeypatch.setattr(publisher_module, "prepare", lambda *_: parameters)
    found = idle_publisher()
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(20)
        assert connection.recv(4) == b"AMQP"
        found.stop()
        thread.join(20)

    assert not thread.is_alive()
    assert not found.status().is_connected
    gc.collect()


@LEAVES_ITS_SOCKET
def test_a_publisher_that_is_stopped_before_there_is_a_link_ends(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = listener.getsockname()
    found = idle_publisher()

    def stop_meanwhile(*_: object) -> pika.ConnectionParameters:
        found.stop()
        return pika.ConnectionParameters(host, port)

    monkeypatch.setattr(publisher_module, "prepare", stop_meanwhile)
    found.run()

    assert not found.status().is_connected
    gc.collect()


def test_a_permanent_error_at_start_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BrokerRefused("wrong password")

    monkeypatch.setattr(publisher_module, "prepare", refuse)
    with pytest.raises(BrokerRefused, match="wrong password"):
        idle_publisher().run()


def test_a_permanent_error_later_is_retried_and_does_not_outlive_the_stop(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = idle_publisher()
    found._state.was_open = True
    attempts = []

    def refuse(*_: object) -> None:
        attempts.append(1)
        if len(attempts) == 3:
            found.stop()
        raise BrokerRefused("no permission")

    monkeypatch.setattr(publisher_module, "prepare", refuse)
    monkeypatch.setattr(retry, "PERMANENT", Backoff(0.001, 0.002))
    found.run()

    assert len(attempts) == 3
    assert found.status().error == "no permission"
    capfd.readouterr()


def test_a_broker_that_accepts_and_says_nothing_is_unavailable(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SOON_SECONDS", 0.2)
    monkeypatch.setattr(asking, "_SECONDS", 0.2)

    with pytest.raises(BrokerUnavailable, match="takes connections and says nothing"):
        prepare(broker_at(listener.getsockname()), pytest.fail)


def test_a_broker_that_is_lost_while_it_is_left_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lost:
        is_open = True
        _impl = type("Impl", (), {"_adapter_call_later": lambda *_a: None})()

        def channel(self) -> Any:
            return MagicMock()

        def close(self) -> None:
            raise exceptions.StreamLostError("gone")

    chosen = pika.ConnectionParameters()
    monkeypatch.setattr(topology_module, "connect", lambda _broker: (Lost(), chosen))

    assert prepare(broker_at(), pytest.fail) is chosen
