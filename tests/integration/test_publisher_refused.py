"""What RabbitMQ refuses at start ends the publisher with one clear error and a hint."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator import retry
from replicator.errors import BrokerRefused, ReplicatorError
from replicator.publisher.broker import Broker, DeclaredQueue
from replicator.retry import Backoff
from tests.support.consumer import Consumer
from tests.support.publishing import RunningPublisher, broker_of, make_entry
from tests.support.wait import wait_until

Granted = Callable[..., Broker]


@contextmanager
def channel_of(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


@pytest.fixture
def granted(rabbitmq: PrivateRabbitMQ, vhost: str) -> Granted:
    """Makes a user with the given permissions in the test's virtual host."""
    name = f"u{uuid.uuid4().hex[:12]}"
    rabbitmq.ctl("add_user", name, "secret")

    def grant(*, configure: str = "", write: str = "", read: str = "") -> Broker:
        virtual_host = unquote(urlsplit(vhost).path[1:])
        rabbitmq.ctl("set_permissions", "-p", virtual_host, name, configure, write, read)
        return broker_of(vhost, user=name, password="secret")

    return grant


def refusal_of(broker: Broker) -> ReplicatorError:
    with RunningPublisher(broker) as publisher:
        error = publisher.wait_for_refusal()
    assert isinstance(error, BrokerRefused), repr(error)
    assert error.hint
    assert "\n" not in str(error)
    return error


def test_an_exchange_of_another_type_is_refused(vhost: str) -> None:
    with channel_of(vhost) as channel:
        channel.exchange_declare("rethinkdb", "fanout", durable=True)
    error = refusal_of(broker_of(vhost))
    assert "exchange 'rethinkdb' exists and is another" in str(error)
    assert "exchange_type" in str(error.hint)


def test_an_exchange_that_is_not_durable_is_refused_unless_so_configured(vhost: str) -> None:
    with channel_of(vhost) as channel:
        channel.exchange_declare("rethinkdb", "topic", durable=False)
    assert "durable" in str(refusal_of(broker_of(vhost)))
    with RunningPublisher(broker_of(vhost, is_exchange_durable=False)) as publisher:
        publisher.wait_until_connected()


def test_a_wrong_password_is_refused_and_not_shown(vhost: str) -> None:
    error = refusal_of(broker_of(vhost, password="marker-of-a-password"))
    assert "refuses the user or password" in str(error)
    assert "marker" not in f"{error} {error.hint}"
    assert "password_file" in str(error.hint)


def test_a_password_may_have_any_characters(rabbitmq: PrivateRabbitMQ, granted: Granted) -> None:
    broker = granted(configure=".*", write=".*", read=".*")
    rabbitmq.ctl("change_password", str(broker.user), "пароль =,%ä")
    with RunningPublisher(broker._replace(password="пароль =,%ä")) as publisher:
        publisher.wait_until_connected()


def test_an_unknown_virtual_host_is_refused(vhost: str) -> None:
    error = refusal_of(broker_of(vhost, virtual_host="nowhere"))
    assert "refuses the virtual host" in str(error)
    assert "nowhere" in str(error)


def test_a_user_without_access_to_the_virtual_host_is_refused(
    rabbitmq: PrivateRabbitMQ, granted: Granted
) -> None:
    broker = granted()
    rabbitmq.ctl("clear_permissions", "-p", broker.virtual_host, str(broker.user))
    assert "refuses the virtual host" in str(refusal_of(broker))


def test_without_permission_to_configure_an_existing_exchange_is_enough(
    vhost: str, granted: Granted
) -> None:
    broker = granted(write="^rethinkdb$")
    assert "may not declare it" in str(refusal_of(broker))
    with Consumer(vhost) as consumer, RunningPublisher(broker) as publisher:
        publisher.offer([make_entry(1)])
        assert [message.entry for message in consumer.wait_for_count(1)] == [1]


def test_without_permission_to_write_it_is_refused_at_start(granted: Granted) -> None:
    error = refusal_of(granted(configure=".*", read=".*"))
    assert "gives no permission" in str(error)
    assert "exchange 'rethinkdb'" in str(error)
    assert "docs/permissions.md" in str(error.hint)


def test_asking_for_permission_to_write_sends_no_message(vhost: str) -> None:
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as publisher:
        publisher.wait_until_connected()
        publisher.offer([make_entry(1)])
        publisher.wait_until_settled(1)
        assert len(consumer.wait_for_count(1)) == 1


def test_permission_that_is_taken_away_while_it_runs_is_waited_for(
    rabbitmq: PrivateRabbitMQ, vhost: str, granted: Granted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PERMANENT", Backoff(0.1, 0.5))
    broker = granted(configure=".*", write=".*", read=".*")
    with Consumer(vhost) as consumer, RunningPublisher(broker) as publisher:
        publisher.offer([make_entry(1)])
        consumer.wait_for_count(1)
        granted(configure=".*", read=".*")
        # The broker remembers permissions per channel for a while; a new connection asks again.
        rabbitmq.ctl("close_all_connections", "--global", "new permissions")
        publisher.offer([make_entry(2)])
        wait_until(lambda: "refuse" in str(publisher.publisher.status().error), 20, "the refusal")
        assert publisher.settled == [1]
        granted(configure=".*", write=".*", read=".*")
        publisher.wait_until_settled(2)
        assert consumer.wait_for_count(2)[-1].entry == 2
    assert publisher.parked == []


def test_queues_of_the_settings_are_declared_and_bound(vhost: str) -> None:
    queues = [
        DeclaredQueue("creates", ["*.create"], "classic"),
        DeclaredQueue("changes", ["*.update", "*.delete"], "quorum"),
        DeclaredQueue("log", ["#"], "stream"),
    ]
    broker = broker_of(vhost, queues=queues)
    for _ in range(2):  # declaring what is there already changes nothing
        with RunningPublisher(broker) as publisher:
            publisher.offer([make_entry(1)])
            publisher.wait_until_settled(1)
    assert publisher.metric("replicator_unroutable_total", table="shop.mytable") == 0
    with channel_of(vhost) as channel:
        for queue in queues:
            channel.queue_declare(queue.name, durable=True, arguments={"x-queue-type": queue.type})
        assert channel.queue_declare("creates", passive=True).method.message_count == 0
        assert channel.queue_declare("changes", passive=True).method.message_count == 2


def test_a_queue_with_other_arguments_is_refused(vhost: str) -> None:
    with channel_of(vhost) as channel:
        channel.queue_declare("changes", durable=True, arguments={"x-queue-type": "classic"})
    error = refusal_of(broker_of(vhost, queues=[DeclaredQueue("changes", ["#"], "quorum")]))
    assert "queue 'changes' exists and is another" in str(error)
    assert "rabbitmq.queues" in str(error.hint)


def test_a_queue_that_may_not_be_declared_is_refused(granted: Granted) -> None:
    broker = granted(configure="^rethinkdb$", write=".*", read=".*")
    error = refusal_of(broker._replace(queues=[DeclaredQueue("changes", ["#"], "classic")]))
    assert "changes" in str(error)
    assert "gives no permission" in str(error)
