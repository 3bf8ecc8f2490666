"""The publisher against a real broker: confirms, nacks, returns, and what is on the wire."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from replicator.domain.model import Op, Origin
from replicator.domain.routing import RoutingKey
from replicator.publisher import delivery
from replicator.publisher import publisher as publisher_module
from replicator.retry import Backoff
from tests.support.consumer import Consumer
from tests.support.publishing import (
    CAPTURED_AT,
    OUTBOX_ID,
    TABLE,
    RunningPublisher,
    assert_all_arrived_in_order,
    make_entries,
    make_entry,
    repeated,
)
from tests.support.wait import wait_until


@contextmanager
def channel_of(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("rethinkdb", "topic", durable=True)
        yield channel


def take_all(channel: BlockingChannel, queue: str) -> list[int]:
    """Take what is in a queue now; return the entries' numbers."""
    numbers = []
    while True:
        method, properties, _ = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return numbers
        assert properties is not None
        numbers.append(int(str(properties.message_id).rpartition("-")[2]))


def test_everything_arrives_once_and_in_order(vhost: str) -> None:
    entries = make_entries(3000, keys=50)
    with Consumer(vhost) as consumer, RunningPublisher(vhost, window=300) as publisher:
        publisher.offer(entries)
        publisher.wait_until_settled(3000)
        assert_all_arrived_in_order(consumer, entries)
        assert repeated(consumer) == []
    assert sorted(publisher.settled) == list(range(1, 3001))
    assert sum(report.settled_bytes for report in publisher.reports) == sum(
        len(entry.body) for entry in entries
    )
    confirmed = publisher.metric("replicator_publish_outcomes_total", outcome="confirmed")
    assert confirmed == publisher.metric("replicator_delivery_seconds_count") == 3000
    assert publisher.metric("replicator_in_flight") == 0


def test_nacked_messages_are_sent_again_and_each_document_stays_in_order(
    vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "REFUSED", Backoff(0.02, 0.2))
    monkeypatch.setattr(publisher_module, "_TICK_SECONDS", 0.05)
    entries = make_entries(48, keys=16)
    arrived: list[int] = []
    with channel_of(vhost) as channel:
        arguments = {"x-max-length": 5, "x-overflow": "reject-publish"}
        channel.queue_declare("small", durable=True, arguments=arguments)
        channel.queue_bind("small", "rethinkdb", "#")
        with RunningPublisher(vhost) as publisher:
            publisher.offer(entries)
            wait_until(lambda: publisher.failed, 10, "a nack")

            def drain() -> bool:
                arrived.extend(take_all(channel, "small"))
                return len(set(arrived)) == 48

            wait_until(drain, 60, "all messages")
            publisher.wait_until_settled(48)
            assert publisher.publisher.status().refused == 0
    for key in range(16):
        of_key = [number for number in arrived if number % 16 == key]
        assert of_key == sorted(of_key), f"deliveries of document {key}"
    assert sorted(publisher.settled) == list(range(1, 49))
    assert {failure.reason for failure in publisher.failed} == {"nacked"}
    assert publisher.metric("replicator_publish_outcomes_total", outcome="nacked") >= 3
    assert publisher.parked == []


def test_attempts_that_a_full_queue_refuses_are_reported(vhost: str) -> None:
    with channel_of(vhost) as channel:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full", durable=True, arguments=arguments)
        channel.queue_bind("full", "rethinkdb", "#")
        with RunningPublisher(vhost) as publisher:
            # One document each: the second does not wait for the first.
            publisher.offer([make_entry(1, "a"), make_entry(2, "b"), make_entry(3, "c")])
            wait_until(lambda: sum(f.attempts for f in publisher.failed) >= 4, 20, "4 attempts")
            held = {failure.number for failure in publisher.failed}
            assert publisher.publisher.status().refused == len(held)
            assert "nack" in publisher.failed[0].text
    assert held.isdisjoint(publisher.settled)


def test_an_unroutable_message_that_may_be_dropped_is_settled_and_counted(vhost: str) -> None:
    with RunningPublisher(vhost) as publisher:
        publisher.offer(make_entries(20, keys=4))
        publisher.wait_until_settled(20)
    assert publisher.metric("replicator_unroutable_total", table=str(TABLE)) == 20
    assert publisher.metric("replicator_publish_outcomes_total", outcome="returned") == 20
    assert publisher.metric("replicator_publish_outcomes_total", outcome="confirmed") == 0
    assert publisher.failed == publisher.parked == []


def test_unroutable_messages_that_are_held_arrive_in_order_once_a_queue_is_bound(
    vhost: str,
) -> None:
    entries = make_entries(40, keys=4)
    with RunningPublisher(vhost, on_unroutable="hold") as publisher:
        publisher.offer(entries)
        wait_until(lambda: len(publisher.failed) >= 4, 10, "returns")
        assert publisher.settled == []
        with Consumer(vhost) as consumer:
            publisher.wait_until_settled(40)
            assert_all_arrived_in_order(consumer, entries)
            assert repeated(consumer) == []
    assert {failure.reason for failure in publisher.failed} == {"unroutable"}
    assert publisher.parked == []


def test_unroutable_messages_are_parked_and_later_ones_of_their_documents_go_on(
    vhost: str,
) -> None:
    with channel_of(vhost) as channel:
        channel.queue_declare("updates", durable=True)
        channel.queue_bind("updates", "rethinkdb", "*.update")
        with RunningPublisher(vhost, on_unroutable="park") as publisher:
            publisher.offer(
                [
                    make_entry(1, "a", op=Op.CREATE),
                    make_entry(2, "a"),
                    make_entry(3, "b"),
                    make_entry(4, "a", op=Op.DELETE),
                    make_entry(5, "a"),
                ]
            )
            publisher.wait_until_settled(3)
            wait_until(lambda: len(publisher.parked) == 2, 10, "parked entries")
        assert [n for n in take_all(channel, "updates") if n != 3] == [2, 5]
    assert [(each.number, each.reason) for each in publisher.parked] == [
        (1, "unroutable"),
        (4, "unroutable"),
    ]
    assert "NO_ROUTE" in publisher.parked[0].text


def test_a_routing_key_that_amqp_cannot_carry_is_parked_and_blocks_nothing(vhost: str) -> None:
    keys = {TABLE: RoutingKey("x" * 250 + ".{op}")}
    with channel_of(vhost) as channel:
        channel.queue_declare("all", durable=True)
        channel.queue_bind("all", "rethinkdb", "#")
        with RunningPublisher(vhost, routing_keys=keys) as publisher:
            publisher.offer([make_entry(1, "a"), make_entry(2, "b", op=Op.DELETE)])
            wait_until(lambda: len(publisher.parked) == 2, 10, "parked entries")
            assert publisher.publisher.drain(5)
        assert take_all(channel, "all") == []
    assert {failure.reason for failure in publisher.parked} == {"routing_key_too_long"}


def encoded(properties: pika.BasicProperties) -> bytes:
    return b"".join(properties.encode())


def test_a_live_change_carries_the_properties_of_the_contract_in_64_bytes(vhost: str) -> None:
    # The largest number that the contract's 28 characters of an id leave room for.
    number = 2**63 - 1
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as publisher:
        publisher.offer([make_entry(number, op=Op.CREATE)])
        (message,) = consumer.wait_for_count(1)
    properties = message.properties
    assert message.routing_key == "mytable.create"
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2
    assert properties.type == "create"
    assert properties.timestamp == CAPTURED_AT // 1_000_000
    assert properties.message_id == f"{OUTBOX_ID}-{number}"
    assert not properties.headers
    assert properties.headers is None
    assert len(encoded(properties)) <= 64
    assert json.loads(message.body) == {"old_val": None, "new_val": {"id": 1, "n": number}}


@pytest.mark.parametrize("origin", [Origin.SNAPSHOT, Origin.RESYNC])
def test_what_is_no_live_change_says_so_in_one_header(vhost: str, origin: Origin) -> None:
    with Consumer(vhost) as consumer, RunningPublisher(vhost, is_persistent=False) as publisher:
        publisher.offer([make_entry(7, origin=origin, op=Op.DELETE)])
        (message,) = consumer.wait_for_count(1)
    assert message.properties.headers == {"x-replicator-origin": origin.value}
    assert message.properties.delivery_mode == 1
    assert message.routing_key == "mytable.delete"


def test_full_headers_tell_everything_of_every_message(vhost: str) -> None:
    with Consumer(vhost) as consumer, RunningPublisher(vhost, has_full_headers=True) as publisher:
        number = 2**40
        publisher.offer([make_entry(number, ["ü", 1.5])])
        (message,) = consumer.wait_for_count(1)
    headers: dict[str, Any] = message.properties.headers or {}
    assert headers == {
        "x-replicator-db": "shop",
        "x-replicator-table": "mytable",
        "x-replicator-op": "update",
        "x-replicator-key": json.dumps(["ü", 1.5]),
        "x-replicator-origin": "feed",
        "x-replicator-entry": number,
        "x-replicator-captured-at": "2023-11-14T22:13:20.123456Z",
    }


def test_a_body_of_many_frames_arrives_whole(vhost: str) -> None:
    text = "0123456789abcdef" * 200_000  # 3.2 MB; a frame carries 128 KiB
    body = json.dumps({"old_val": None, "new_val": {"id": 1, "text": text}}).encode()
    # Bodies at the edges of a frame, where an off-by-one would show.
    edges = [131_072 - 8 + extra for extra in (-1, 0, 1)]
    around = json.dumps({"old_val": None, "new_val": {"id": 0, "text": ""}}).encode()
    padded = [around.replace(b'""', b'"' + b"x" * (size - len(around)) + b'"') for size in edges]
    bodies = [body, *padded]
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as publisher:
        publisher.offer([make_entry(n + 1, n, body=each) for n, each in enumerate(bodies)])
        history = consumer.wait_for_count(4)
        publisher.wait_until_settled(4)
    assert [len(each) for each in padded] == edges
    assert [message.body for message in history] == bodies


def test_drain_waits_for_the_confirms(vhost: str) -> None:
    with Consumer(vhost), RunningPublisher(vhost) as publisher:
        publisher.wait_until_connected()
        publisher.offer(make_entries(2000, keys=500))
        assert publisher.publisher.drain(20)
        assert publisher.publisher.status().in_flight == 0
    assert len(publisher.settled) == 2000


def test_drain_gives_up_at_its_deadline(vhost: str) -> None:
    with RunningPublisher(vhost, on_unroutable="hold") as publisher:
        publisher.wait_until_connected()
        publisher.offer([make_entry(1)])
        assert not publisher.publisher.drain(0.2)
