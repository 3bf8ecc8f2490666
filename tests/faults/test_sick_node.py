"""A RabbitMQ node that takes connections, answers heartbeats and serves nobody."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.domain.hosts import InTurn
from replicator.publisher import link as link_module
from replicator.publisher import topology as topology_module
from tests.faults.cluster_run import Measured, under_load
from tests.faults.recorder import REPLICATED
from tests.support.consumer import Consumer
from tests.support.publishing import RunningPublisher, broker_of, make_entry
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

# As when a node waits for another one of its cluster: what reads its tables goes on, what must
# change them does not. A process is suspended for as long as the one lives that did it.
_FALL_SICK = (
    "spawn(fun() -> erlang:suspend_process(whereis(mnesia_locker)), timer:sleep(600000) end), ok."
)


@pytest.fixture
def sick() -> Iterator[PrivateRabbitMQ]:
    with PrivateRabbitMQ() as node:
        yield node


@pytest.mark.parametrize("has_exchange", [False, True], ids=["no exchange", "exchange"])
def test_the_next_host_is_used_when_the_first_connects_and_does_not_answer(
    sick: PrivateRabbitMQ,
    rabbitmq: PrivateRabbitMQ,
    *,
    has_exchange: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an exchange its declaration has no answer, with one the fence's has none."""
    monkeypatch.setattr(topology_module, "_ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(link_module, "_OPEN_SECONDS", 2.0)
    name = uuid.uuid4().hex
    url = rabbitmq.add_vhost(name)
    sick.add_vhost(name)
    if has_exchange:
        with pika.BlockingConnection(pika.URLParameters(sick.url_of(name))) as connection:
            connection.channel().exchange_declare("rethinkdb", "topic", durable=True)
    sick.ctl("eval", _FALL_SICK)
    hosts = InTurn([("127.0.0.1", sick.port), ("127.0.0.1", rabbitmq.port)])
    broker = broker_of(url)._replace(hosts=hosts)
    with Consumer(url) as consumer, RunningPublisher(broker) as publisher:
        publisher.offer([make_entry(1)])
        assert [message.entry for message in consumer.wait_for_count(1, 30)] == [1]
        wait_until(lambda: publisher.settled == [1], 20, "the confirm")


@pytest.mark.skipif(not os.environ.get("FAULTS_LONG"), reason="FAULTS_LONG=1 runs it")
@pytest.mark.usefixtures("collected")
def test_the_whole_service_keeps_its_promises_beside_a_node_that_is_sick(
    sick: PrivateRabbitMQ,
    rabbitmq: PrivateRabbitMQ,
    rethinkdb: RethinkServer,
    database: str,
    tmp_path: Path,
    say: Callable[[Measured], None],
) -> None:
    name = uuid.uuid4().hex
    url = rabbitmq.add_vhost(name)
    sick.add_vhost(name)
    sick.ctl("eval", _FALL_SICK)
    hosts = f"127.0.0.1:{sick.port},127.0.0.1:{rabbitmq.port}"
    settings = {
        "RETHINKDB__URL": rethinkdb.url,
        "RABBITMQ__URL": f"amqp://guest:guest@{hosts}/{name}",
    }
    with under_load(tmp_path, settings, rethinkdb, database, ([url], REPLICATED)) as run:
        # It is the sick node's turn again.
        rabbitmq.close_connections("a test")
        run.wait_for_deliveries()
        assert run.broker() == f"127.0.0.1:{rabbitmq.port}"
        measured, facts = run.judge()
    say(measured)
    assert facts.gaps == []
