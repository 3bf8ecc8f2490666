"""A limit of RabbitMQ passes: it is waited for, and `check` says so with status 1."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.publisher.broker import DeclaredQueue
from tests.support.command import Command, command_line
from tests.support.publishing import RunningPublisher, broker_of
from tests.support.wait import wait_until

QUEUES = [DeclaredQueue("mine", ["#"], "classic")]


def name_of(vhost: str) -> str:
    return vhost.rpartition("/")[2]


@contextmanager
def channel_of(url: str) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


@pytest.fixture
def limit(rabbitmq: PrivateRabbitMQ, vhost: str) -> Callable[..., None]:
    """Sets the limits of the test's virtual host."""

    def set_limits(**limits: int) -> None:
        wanted = {name.replace("_", "-"): value for name, value in limits.items()}
        rabbitmq.ctl("set_vhost_limits", "-p", name_of(vhost), json.dumps(wanted))

    return set_limits


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vhost: str
) -> Iterator[Command]:
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", vhost)
    monkeypatch.setenv("REPLICATOR_RETHINKDB__URL", "rethinkdb://127.0.0.1:1")
    monkeypatch.setenv("REPLICATOR_TABLES", "shop.mytable")
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", "sqlite:////dev/null/outbox.db")
    with command_line(monkeypatch, capsys) as run:
        yield run


def found(cli: Command, part: str) -> Any:
    (line,) = [line for line in cli("check", "--json").objects if line["part"] == part]
    return line


def assert_waits(running: RunningPublisher, words: str) -> None:
    wait_until(lambda: words in (running.publisher.status().error or ""), 20, words)
    assert running.thread.is_alive(), "the start has ended"
    assert not running.publisher.status().is_connected


def test_a_limit_of_connections_is_waited_for(
    vhost: str, limit: Callable[..., None], cli: Command
) -> None:
    limit(max_connections=0)

    with RunningPublisher(vhost) as running:
        assert_waits(running, "has reached a limit: NOT_ALLOWED - access to vhost")
        line = found(cli, "rabbitmq")
        limit(max_connections=-1)
        running.wait_until_connected()

    assert not line["ok"]
    assert not line["permanent"]
    assert "has reached a limit" in line["message"]
    assert "list_vhost_limits" in line["hint"]


@pytest.mark.parametrize("kind", ["max-connections", "max-channels"])
def test_a_user_s_limit_is_waited_for(rabbitmq: PrivateRabbitMQ, vhost: str, kind: str) -> None:
    user = f"u{name_of(vhost)}"
    rabbitmq.ctl("add_user", user, "pw")
    rabbitmq.ctl("set_permissions", "-p", name_of(vhost), user, ".*", ".*", ".*")
    broker = broker_of(vhost, user=user, password="pw")
    rabbitmq.ctl("set_user_limits", user, json.dumps({kind: 0}))

    with RunningPublisher(broker) as running:
        assert_waits(running, "has reached a limit: NOT_ALLOWED - ")
        rabbitmq.ctl("clear_user_limits", user, "all")
        running.wait_until_connected()


def test_one_channel_on_one_connection_is_enough(
    rabbitmq: PrivateRabbitMQ, vhost: str, limit: Callable[..., None]
) -> None:
    user = f"u{name_of(vhost)}"
    rabbitmq.ctl("add_user", user, "pw")
    rabbitmq.ctl("set_permissions", "-p", name_of(vhost), user, ".*", ".*", ".*")
    rabbitmq.ctl("set_user_limits", user, '{"max-channels": 1}')
    limit(max_connections=1)
    queues = [*QUEUES, DeclaredQueue("other", ["#"], "classic")]

    with RunningPublisher(
        broker_of(vhost, user=user, password="pw", queues=queues, exchanges=["x", "y"])
    ) as running:
        running.wait_until_connected()


def test_a_limit_of_queues_is_not_another_queue(
    rabbitmq: PrivateRabbitMQ,
    vhost: str,
    limit: Callable[..., None],
    cli: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(max_queues=1)
    monkeypatch.setenv(
        "REPLICATOR_RABBITMQ__QUEUES", json.dumps([{"name": "mine", "type": "classic"}])
    )
    with channel_of(vhost) as channel:
        channel.queue_declare("theirs", durable=True)

    with RunningPublisher(broker_of(vhost, queues=QUEUES)) as running:
        assert_waits(running, "has reached a limit: PRECONDITION_FAILED - cannot declare queue")
        # Version 4 looks at the limit last, when a queue would be made, which `check` never does.
        parts = ["queue mine", "fence"] if rabbitmq.version < (4,) else []
        lines = [found(cli, part) for part in parts]
        limit(max_queues=-1)
        running.wait_until_connected()

    for line in lines:
        assert not line["ok"]
        assert not line["permanent"]
        assert "has reached a limit" in line["message"]
        assert "raise the limit" in line["hint"]


def test_the_fence_waits_for_room_for_its_queue(vhost: str, limit: Callable[..., None]) -> None:
    limit(max_queues=1)
    with channel_of(vhost) as channel:
        channel.queue_declare("theirs", durable=True)
        with RunningPublisher(vhost) as running:
            assert_waits(running, "has reached a limit")
            channel.queue_delete("theirs")
            running.wait_until_connected()


def test_a_virtual_host_that_is_stopped_is_waited_for(
    rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    name = name_of(vhost)
    rabbitmq.ctl("eval", f'rabbit_vhost_sup_sup:stop_and_delete_vhost(<<"{name}">>).')

    with RunningPublisher(vhost) as running:
        assert_waits(running, "has stopped the virtual host")
        rabbitmq.ctl("restart_vhost", "--vhost", name)
        running.wait_until_connected()
