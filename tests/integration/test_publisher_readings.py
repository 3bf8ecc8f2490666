"""The publisher forgets and is handed everything again: after orders of operators, while it works.

Nothing is lost, nothing is delivered twice, and each document's first deliveries keep their order.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.publisher import delivery
from replicator.retry import Backoff
from tests.support.consumer import Consumer
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


@contextmanager
def small_queue(url: str, length: int) -> Iterator[BlockingChannel]:
    """A queue that refuses what does not fit into it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("rethinkdb", "topic", durable=True)
        arguments = {"x-max-length": length, "x-overflow": "reject-publish"}
        channel.queue_declare("small", durable=True, arguments=arguments)
        channel.queue_bind("small", "rethinkdb", "#")
        yield channel


def take_all(channel: BlockingChannel) -> list[int]:
    numbers = []
    while True:
        method, properties, _ = channel.basic_get("small", auto_ack=True)
        if method is None:
            return numbers
        assert properties is not None
        numbers.append(int(str(properties.message_id).rpartition("-")[2]))


def forget(publisher: RunningPublisher) -> None:
    before = readings(publisher)
    publisher.publisher.forget()
    wait_until(lambda: readings(publisher) > before, 20, "a new reading")


def readings(publisher: RunningPublisher) -> int:
    return max(report.reading for report in publisher.reports)


def test_nothing_is_delivered_twice_however_often_it_forgets(vhost: str) -> None:
    entries = make_entries(6000, keys=100)
    with Consumer(vhost) as consumer, RunningPublisher(vhost, window=50) as publisher:
        publisher.wait_until_connected()
        feeder = threading.Thread(target=publisher.offer, args=(entries,), daemon=True)
        feeder.start()

        def forget_again() -> bool:
            forget(publisher)
            return len(publisher.settled) >= len(entries)

        wait_until(forget_again, 60, "all settled")
        feeder.join(20)
        assert_all_arrived_in_order(consumer, entries)
        assert repeated(consumer) == []
    assert readings(publisher) > 10
    assert sorted(publisher.settled) == [entry.number for entry in entries]


def test_what_is_parked_while_it_is_refused_is_not_sent_until_it_is_redriven(
    vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "REFUSED", Backoff(0.02, 0.1))
    with small_queue(vhost, 1) as channel, RunningPublisher(vhost) as publisher:
        publisher.offer([make_entry(1, "full")])
        publisher.wait_until_settled(1)
        publisher.offer([make_entry(2, "a"), make_entry(3, "a"), make_entry(4, "b")])
        wait_until(lambda: publisher.publisher.status().refused == 2, 20, "refusals")
        publisher.outbox.park([2])
        forget(publisher)
        assert take_all(channel) == [1]
        arrived: list[int] = []

        def drain() -> bool:
            arrived.extend(take_all(channel))
            return {3, 4} <= set(publisher.settled) and len(arrived) >= 2

        wait_until(drain, 20, "the others")
        publisher.outbox.redrive()
        forget(publisher)
        publisher.wait_until_settled(4)
        assert take_all(channel) == [2]
    assert sorted(arrived) == [3, 4]


def test_what_is_parked_in_flight_is_not_sent_again_after_a_lost_connection(
    rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    with TcpProxy(rabbitmq.port) as proxy, Consumer(vhost) as consumer:
        broker = broker_of(vhost, hosts=[("127.0.0.1", proxy.port)])
        with RunningPublisher(broker) as publisher:
            publisher.wait_until_connected()
            proxy.go_deaf("to_client")
            publisher.offer([make_entry(1, "a"), make_entry(2, "a"), make_entry(3, "b")])
            consumer.wait_for_count(2)
            publisher.outbox.park([1])
            forget(publisher)
            assert publisher.publisher.status().in_flight == 2
            proxy.cut()
            proxy.heal()
            publisher.wait_until_settled(2)
            consumer.wait_for_count(4)
    assert [message.entry for message in consumer.history] == [1, 3, 2, 3]
    assert sorted(publisher.settled) == [2, 3]
