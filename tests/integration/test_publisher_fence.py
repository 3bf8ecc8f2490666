"""Nothing is published while an earlier connection of the outbox is open at the broker."""

from collections.abc import Iterator
from typing import Any

import pika
import pytest

from replicator.publisher.fence import fence_name
from tests.support.consumer import Consumer
from tests.support.promises import assert_order_is_kept
from tests.support.publishing import OUTBOX_ID, RunningPublisher, make_entry
from tests.support.wait import wait_until


@pytest.fixture
def earlier(vhost: str) -> Iterator[Any]:
    """An earlier connection of the same outbox, which holds the fence."""
    connection = pika.BlockingConnection(pika.URLParameters(vhost))
    connection.channel().queue_declare(fence_name("rethinkdb", OUTBOX_ID), exclusive=True)
    yield connection
    if connection.is_open:
        connection.close()


def test_it_publishes_only_when_the_earlier_connection_has_ended(vhost: str, earlier: Any) -> None:
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as running:
        running.offer([make_entry(1)])
        wait_until(lambda: "still open" in (running.publisher.status().error or ""))
        assert not running.publisher.status().is_connected
        assert consumer.history == []
        earlier.close()
        assert [message.entry for message in consumer.wait_for_count(1)] == [1]


def test_what_an_earlier_connection_still_delivers_comes_before_newer_entries(
    vhost: str, earlier: Any
) -> None:
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as running:
        # Entry 1 went out over a link that was given up here, and is still on its way there.
        running.offer([make_entry(1), make_entry(2)])
        wait_until(lambda: "still open" in (running.publisher.status().error or ""))
        late = make_entry(1)
        properties = pika.BasicProperties(message_id=f"{OUTBOX_ID}-1", type="update")
        earlier.channel().basic_publish("rethinkdb", "mytable.update", late.body, properties)
        earlier.close()
        consumer.wait_for(lambda c: [m.entry for m in c.history][-1:] == [2], 30)
    assert [message.entry for message in consumer.history] == [1, 1, 2]
    assert_order_is_kept(consumer)
