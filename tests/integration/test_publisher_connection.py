"""The publisher when the broker blocks, goes away, hangs or loses what it had."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from pika import heartbeat
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.errors import BrokerUnavailable
from replicator.publisher import topology as topology_module
from replicator.publisher.broker import Broker
from replicator.publisher.topology import Topology, prepare
from tests.support.consumer import Consumer
from tests.support.ports import free_port
from tests.support.proxy import TcpProxy
from tests.support.publishing import (
    RunningPublisher,
    assert_all_arrived_in_order,
    broker_of,
    make_entries,
    make_entry,
    repeated,
)
from tests.support.wait import wait_until


@pytest.fixture
def proxy(rabbitmq: PrivateRabbitMQ) -> Iterator[TcpProxy]:
    with TcpProxy(rabbitmq.port) as between:
        yield between


@contextmanager
def memory_alarm(rabbitmq: PrivateRabbitMQ) -> Iterator[None]:
    rabbitmq.block()
    try:
        yield
    finally:
        rabbitmq.unblock()


def through(proxy: TcpProxy, url: str) -> Broker:
    return broker_of(url, hosts=[("127.0.0.1", proxy.port)])


def test_a_memory_alarm_is_shown_and_loses_nothing(rabbitmq: PrivateRabbitMQ, vhost: str) -> None:
    entries = make_entries(1000, keys=20)
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as publisher:
        publisher.offer(entries[:500])
        publisher.wait_until_settled(500)
        with memory_alarm(rabbitmq):
            publisher.offer(entries[500:])
            wait_until(lambda: publisher.metric("replicator_broker_blocked") == 1, 20, "blocked")
            assert publisher.publisher.status().is_blocked
            assert publisher.metric("replicator_connected", peer="rabbitmq") == 1
        publisher.wait_until_settled(1000)
        assert publisher.metric("replicator_broker_blocked") == 0
        assert not publisher.publisher.status().is_blocked
        assert_all_arrived_in_order(consumer, entries)
        assert repeated(consumer) == []
    assert publisher.metric("replicator_reconnects_total", peer="rabbitmq") == 0


def test_a_publisher_that_is_blocked_stops_without_waiting_for_the_broker(
    rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    with RunningPublisher(vhost, on_unroutable="hold") as publisher:
        publisher.wait_until_connected()
        with memory_alarm(rabbitmq):
            publisher.offer([make_entry(1)])
            wait_until(lambda: publisher.publisher.status().is_blocked, 20, "blocked")
            assert_stops_within(publisher, 4)
    assert publisher.settled == []


def test_a_publisher_that_starts_during_an_alarm_shows_it_and_goes_on_after_it(
    rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    entries = make_entries(50, keys=5)
    with Consumer(vhost) as consumer:
        with memory_alarm(rabbitmq):
            publisher = RunningPublisher(vhost)
            publisher.offer(entries)
            publisher.thread.start()
            wait_until(lambda: publisher.publisher.status().is_blocked, 20, "blocked")
            assert publisher.metric("replicator_broker_blocked") == 1
            assert publisher.settled == []
        publisher.wait_until_settled(50)
        assert_stops_within(publisher, 4)
        assert_all_arrived_in_order(consumer, entries)


def test_a_publisher_with_a_dead_link_stops_without_waiting_for_the_broker(
    proxy: TcpProxy, vhost: str
) -> None:
    with RunningPublisher(through(proxy, vhost)) as publisher:
        publisher.wait_until_connected()
        proxy.go_deaf()
        assert_stops_within(publisher, 4)


def test_a_broker_that_stops_answering_is_given_up(
    proxy: TcpProxy, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a node does that waits for another one of its cluster: pika would wait for ever."""
    monkeypatch.setattr(topology_module, "_ANSWER_SECONDS", 0.5)
    declare = Topology.declare_exchange

    def declare_it(*arguments: Any) -> None:
        proxy.go_deaf()
        declare(*arguments)

    monkeypatch.setattr(Topology, "declare_exchange", declare_it)
    with pytest.raises(BrokerUnavailable, match=r"no answer in 0\.5 seconds"):
        prepare(through(proxy, vhost), pytest.fail)


def assert_stops_within(publisher: RunningPublisher, seconds: float) -> None:
    publisher.publisher.stop()
    publisher.thread.join(seconds)
    assert not publisher.thread.is_alive(), "the publisher still runs"
    assert publisher.error is None


class ImpatientHeartbeat(heartbeat.HeartbeatChecker):
    """Looks every two seconds; pika adds five seconds to every interval."""

    def _start_check_timer(self) -> None:
        self._check_interval = 2
        super()._start_check_timer()


def delete_exchange(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().exchange_delete("rethinkdb")


def test_an_exchange_that_is_deleted_is_declared_again(vhost: str) -> None:
    with RunningPublisher(vhost, on_unroutable="hold") as publisher:
        publisher.wait_until_connected()
        delete_exchange(vhost)
        entries = make_entries(30, keys=3)
        publisher.offer(entries)
        wait_until(lambda: publisher.failed, 20, "returns of the new exchange")
        with Consumer(vhost) as consumer:
            publisher.wait_until_settled(30)
            assert_all_arrived_in_order(consumer, entries)
    assert publisher.parked == []


def test_a_queue_that_is_deleted_makes_messages_unroutable_and_nothing_worse(vhost: str) -> None:
    with RunningPublisher(vhost) as publisher:
        with Consumer(vhost) as consumer:
            publisher.offer([make_entry(1)])
            consumer.wait_for_count(1)
        with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
            connection.channel().queue_delete("copy")
        publisher.offer([make_entry(2)])
        publisher.wait_until_settled(2)
        with Consumer(vhost) as consumer:
            publisher.offer([make_entry(3)])
            assert [message.entry for message in consumer.wait_for_count(1)] == [3]
    assert publisher.metric("replicator_publish_outcomes_total", outcome="returned") == 1
    assert publisher.metric("replicator_reconnects_total", peer="rabbitmq") == 0


def test_after_an_operator_closed_all_connections_what_was_in_flight_comes_again(
    rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    entries = make_entries(5000, keys=200)
    with Consumer(vhost) as consumer, RunningPublisher(vhost, window=20) as publisher:
        feeder = threading.Thread(target=publisher.offer, args=(entries[:4000],), daemon=True)
        publisher.wait_until_connected()
        feeder.start()
        publisher.wait_until_settled(1)
        rabbitmq.ctl("close_all_connections", "--global", "maintenance")
        feeder.join(30)
        publisher.offer(entries[4000:])
        publisher.wait_until_settled(5000, 60)
        assert_all_arrived_in_order(consumer, entries)
    ids = {message.properties.message_id for message in consumer.history}
    assert len(ids) == 5000
    assert publisher.metric("replicator_reconnects_total", peer="rabbitmq") == 1


def test_messages_whose_confirms_were_lost_come_again_with_the_same_ids(
    proxy: TcpProxy, vhost: str
) -> None:
    entries = make_entries(400, keys=400)
    with Consumer(vhost) as consumer, RunningPublisher(through(proxy, vhost)) as publisher:
        publisher.wait_until_connected()
        proxy.go_deaf("to_client")
        publisher.offer(entries)
        consumer.wait_for_count(400)
        assert publisher.settled == []
        proxy.cut()
        proxy.heal()
        publisher.wait_until_settled(400)
        assert_all_arrived_in_order(consumer, entries)
        consumer.wait_for_count(800)
        by_entry = {message.entry: message.properties for message in consumer.history[:400]}
        for message in consumer.history[400:]:
            assert message.properties == by_entry[message.entry]
    assert sorted(publisher.settled) == list(range(1, 401))


@pytest.mark.parametrize("direction", ["to_client", "to_server"])
def test_a_link_that_went_deaf_is_noticed_by_the_heartbeat(
    proxy: TcpProxy, vhost: str, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    monkeypatch.setattr(heartbeat, "HeartbeatChecker", ImpatientHeartbeat)
    entries = make_entries(200, keys=10)
    with (
        Consumer(vhost) as consumer,
        RunningPublisher(through(proxy, vhost)._replace(heartbeat_seconds=1)) as publisher,
    ):
        publisher.offer(entries[:100])
        publisher.wait_until_settled(100)
        proxy.go_deaf(direction)  # type: ignore[arg-type]
        publisher.offer(entries[100:])
        wait_until(lambda: not publisher.publisher.status().is_connected, 20, "the loss")
        proxy.heal()
        publisher.wait_until_settled(200)
        assert_all_arrived_in_order(consumer, entries)
    assert publisher.metric("replicator_reconnects_total", peer="rabbitmq") == 1


@pytest.mark.parametrize("bytes_sent", [1, 40, 400, 500, 520, 530, 545])
def test_a_link_that_breaks_during_the_login_is_no_refusal(
    proxy: TcpProxy, vhost: str, bytes_sent: int
) -> None:
    proxy.cut_after(bytes_sent, "to_client")
    with pytest.raises(BrokerUnavailable):
        prepare(through(proxy, vhost), pytest.fail)


def test_a_connection_cut_in_the_middle_of_a_message_loses_nothing(
    proxy: TcpProxy, vhost: str
) -> None:
    body = b'{"old_val":null,"new_val":{"id":1,"text":"' + b"x" * 50_000 + b'"}}'
    entries = [make_entry(n, 1, body=body) for n in range(1, 20)]
    entries += make_entries(500, keys=30, first=20)
    with Consumer(vhost) as consumer, RunningPublisher(through(proxy, vhost)) as publisher:
        publisher.wait_until_connected()
        proxy.cut_after(25_000, "to_server")
        publisher.offer(entries)
        publisher.wait_until_settled(len(entries))
        assert_all_arrived_in_order(consumer, entries)
    assert publisher.metric("replicator_reconnects_total", peer="rabbitmq") == 1


def test_the_second_host_is_used_when_nobody_answers_at_the_first(
    rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    hosts = [("127.0.0.1", free_port()), ("127.0.0.1", rabbitmq.port)]
    with Consumer(vhost) as consumer, RunningPublisher(broker_of(vhost, hosts=hosts)) as publisher:
        publisher.offer([make_entry(1)])
        assert [message.entry for message in consumer.wait_for_count(1)] == [1]


def test_a_broker_that_cannot_be_reached_is_logged_once_and_tried_again(
    proxy: TcpProxy, vhost: str
) -> None:
    proxy.refuse()
    with Consumer(vhost) as consumer, RunningPublisher(through(proxy, vhost)) as publisher:
        publisher.offer([make_entry(1)])
        wait_until(lambda: publisher.publisher.status().error, 20, "an error to show")
        assert f"127.0.0.1:{proxy.port}" in str(publisher.publisher.status().error)
        proxy.heal()
        consumer.wait_for_count(1)
        wait_until(lambda: publisher.publisher.status().error is None, 5, "no error to show")
    assert publisher.error is None


def test_drain_gives_up_at_once_without_a_connection(proxy: TcpProxy, vhost: str) -> None:
    proxy.refuse()
    with RunningPublisher(through(proxy, vhost)) as publisher:
        publisher.offer([make_entry(1)])
        started = time.monotonic()
        assert not publisher.publisher.drain(30)
        assert time.monotonic() - started < 5
    assert publisher.settled == []
