"""What differs between RabbitMQ's versions, and what does not: docs/rabbitmq-versions.md.

The node that `rabbitmq` is has the settings of its version; the strict one denies all that RabbitMQ
4 calls deprecated, has frames as small as may be, and keeps its metadata in Khepri in turn.
"""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator.publisher.fence import fence_name
from tests.support.consumer import Consumer
from tests.support.promises import assert_order_is_kept, wait_for_equality
from tests.support.publishing import OUTBOX_ID, RunningPublisher, make_entry
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until
from tests.support.writer import Writer

_MIB = 2**20
_DEPRECATED = (
    "amqp_address_v1",
    "global_qos",
    "queue_master_locator",
    "ram_node_type",
    "transient_nonexcl_queues",
)
_QUEUES = [
    {"name": "search", "type": "quorum"},
    {"name": "mail", "type": "classic"},
    {"name": "audit", "type": "stream"},
]


@pytest.fixture(scope="module", params=["mnesia", "khepri"])
def strict(request: pytest.FixtureRequest, rabbitmq: PrivateRabbitMQ) -> Iterator[PrivateRabbitMQ]:
    config = {"frame_max": "8192"}
    if rabbitmq.version >= (4,):
        config |= {f"deprecated_features.permit.{name}": "false" for name in _DEPRECATED}
    elif request.param == "khepri":
        pytest.skip("this version has no Khepri")
    with PrivateRabbitMQ(config=config) as node:
        if request.param == "khepri":
            node.ctl("enable_feature_flag", "--experimental", "khepri_db")
            assert node.ctl("eval", "rabbit_khepri:is_enabled().").strip() == "true"
        yield node


@pytest.fixture
def place(strict: PrivateRabbitMQ) -> str:
    """The URL of a virtual host of the test's own on the strict node."""
    return strict.add_vhost(f"v{uuid.uuid4().hex[:12]}")


@pytest.fixture
def service(replicator: ReplicatorProcess, place: str) -> ReplicatorProcess:
    replicator.settings |= {"RABBITMQ__URL": place, "RABBITMQ__QUEUES": json.dumps(_QUEUES)}
    return replicator


@pytest.fixture
def channel_of() -> Iterator[Callable[[str], Any]]:
    opened: list[pika.BlockingConnection] = []

    def open_one(url: str) -> Any:
        opened.append(pika.BlockingConnection(pika.URLParameters(url)))
        return opened[-1].channel()

    yield open_one
    for connection in opened:
        if connection.is_open:
            connection.close()


def test_the_strict_node_is_strict(
    strict: PrivateRabbitMQ, place: str, channel_of: Callable[[str], Any]
) -> None:
    if strict.version < (4,):
        pytest.skip("this version permits all of it")
    with pytest.raises(AMQPError, match="transient_nonexcl_queues"):
        channel_of(place).queue_declare("transient")


def test_a_strict_node_takes_all_that_the_service_asks_of_it(
    service: ReplicatorProcess, place: str, connection: Any, database: str
) -> None:
    checked = service.run("check")
    assert checked.returncode == 0, checked.stdout
    assert "without a fence" not in checked.stdout
    table = r.db(database).table("mytable")
    with Consumer(place) as consumer:
        service.start_and_wait()
        # More than a frame of 8 KiB.
        table.insert({"id": 1, "text": "x" * 100_000}).run(connection)
        table.get(1).update({"n": 2}).run(connection)
        table.get(1).delete().run(connection)
        consumer.wait_for_count(3)
    assert_order_is_kept(consumer)
    assert "without a fence" not in service.log()
    assert service.run("check").returncode == 0, "the queues that it has declared are another kind"


def test_a_strict_node_has_a_queue_for_listen(
    service: ReplicatorProcess, connection: Any, database: str
) -> None:
    service.start_and_wait()
    with subprocess.Popen(
        [sys.executable, "-m", "replicator", "listen", "--json", "--count", "1"],
        env=service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listener:
        assert listener.stderr is not None
        assert listener.stderr.readline().startswith("listening on exchange")
        r.db(database).table("mytable").insert({"id": 1}).run(connection)
        out, err = listener.communicate(timeout=30)
    assert (listener.returncode, err) == (0, "")
    assert json.loads(out)["routing_key"] == "mytable.create"


def test_the_fence_of_a_strict_node_is_one_connection_s_until_it_ends(
    place: str, channel_of: Callable[[str], Any]
) -> None:
    earlier = channel_of(place)
    earlier.queue_declare(fence_name("rethinkdb", OUTBOX_ID), exclusive=True)
    with Consumer(place) as consumer, RunningPublisher(place) as running:
        running.offer([make_entry(1)])
        wait_until(lambda: "still open" in (running.publisher.status().error or ""))
        assert consumer.history == []
        earlier.connection.close()
        consumer.wait_for_count(1)


def test_a_strict_node_that_is_killed_costs_no_change(
    service: ReplicatorProcess,
    strict: PrivateRabbitMQ,
    rethinkdb: RethinkServer,
    place: str,
    connection: Any,
    database: str,
) -> None:
    # A quorum queue or a stream that was declared just before may not come back: either version.
    del service.settings["RABBITMQ__QUEUES"]
    with Consumer(place) as consumer, Writer(rethinkdb, database, seed=6) as writer:
        service.start_and_wait()
        consumer.wait_for_count(50)
        strict.kill()
        enough = writer.writes + 100
        wait_until(lambda: writer.writes >= enough, 30)
        strict.start()
        service.wait_until_ready()
        writer.stop()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)
    assert service.metric("replicator_gaps_total") == 0


def test_the_demo_runs_on_a_strict_node(place: str) -> None:
    with pytest.MonkeyPatch.context() as settings:
        settings.setenv("RABBITMQ_URL", place)
        settings.delenv("RETHINKDB_URL", raising=False)
        done = subprocess.run(
            [sys.executable, "-m", "replicator", "demo", "--seconds", "5", "--json"],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["equal"] is True


# The settings that a version has by default.


def test_a_message_of_more_than_16_mib_is_parked_by_version_4_and_by_no_other(
    rabbitmq: PrivateRabbitMQ,
    replicator: ReplicatorProcess,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    limit = 16 * _MIB if rabbitmq.version >= (4,) else 128 * _MIB
    asked = "element(2, application:get_env(rabbit, max_message_size))."
    assert int(rabbitmq.ctl("eval", asked)) == limit
    table = r.db(database).table("mytable")
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        table.insert({"id": 1, "text": "x" * 9 * _MIB}).run(connection)
        consumer.wait_for_count(1)
        # The message has the document before and after: 18 MiB.
        table.get(1).update({"n": 2}).run(connection)
        if limit < 18 * _MIB:
            wait_until(lambda: replicator.status()["outbox"]["parked"] == 1, 60)
        table.insert({"id": 2}).run(connection)
        consumer.wait_for(lambda each: each.documents("mytable").get("2") is not None, 60)
        if limit < 18 * _MIB:
            assert [message.op for message in consumer.history] == ["create", "create"]
            (parked,) = replicator.run(
                "outbox", "list", "--state", "parked", "--json"
            ).stdout.splitlines()
            assert json.loads(parked)["reason"] == "too_large"
        else:
            assert [message.op for message in consumer.history] == ["create", "update", "create"]


def test_a_quorum_queue_gives_a_message_up_after_20_tries_in_version_4(
    rabbitmq: PrivateRabbitMQ, vhost: str, channel_of: Callable[[str], Any]
) -> None:
    channel = channel_of(vhost)
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", "q", b"x", mandatory=True)
    deliveries = 0
    for method, _, _ in channel.consume("q", inactivity_timeout=2):
        if method is None:
            break
        deliveries += 1
        if deliveries > 30:
            break
        channel.basic_nack(method.delivery_tag, requeue=True)
    assert deliveries == (21 if rabbitmq.version >= (4,) else 31)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"x-queue-version": 1, "x-queue-mode": "lazy"}, {"x-queue-version": 2}],
    ids=str,
)
def test_a_classic_queue_is_of_version_2_in_version_4_whatever_is_asked(
    rabbitmq: PrivateRabbitMQ,
    vhost: str,
    channel_of: Callable[[str], Any],
    arguments: dict[str, Any],
) -> None:
    channel_of(vhost).queue_declare("q", durable=True, arguments=arguments)
    queue = f'rabbit_misc:r(<<"{vhost.rpartition("/")[2]}">>, queue, <<"q">>)'
    said = rabbitmq.ctl(
        "eval",
        f"rabbit_amqqueue:with({queue},"
        " fun(Q) -> rabbit_amqqueue:info(Q, [backing_queue_status]) end).",
    )
    is_asked = arguments.get("x-queue-version") == 2
    assert ("{version,2}" in said) is (rabbitmq.version >= (4,) or is_asked)


def test_an_unknown_type_of_exchange_closes_the_connection_or_in_version_4_the_channel(
    rabbitmq: PrivateRabbitMQ,
    replicator: ReplicatorProcess,
    vhost: str,
    channel_of: Callable[[str], Any],
) -> None:
    unknown = "x-of-a-plugin"
    is_new = rabbitmq.version >= (4,)
    with pytest.raises(ChannelClosedByBroker if is_new else ConnectionClosedByBroker) as refused:
        channel_of(vhost).exchange_declare("other", exchange_type=unknown)
    assert refused.value.reply_code == (406 if is_new else 503)

    replicator.settings |= {"RABBITMQ__EXCHANGE_TYPE": unknown}
    done = replicator.run("run")
    assert done.returncode == 2
    assert "rabbitmq.exchange_type" in done.stderr


def test_frames_are_of_the_same_size_by_default(rabbitmq: PrivateRabbitMQ) -> None:
    asked = "element(2, application:get_env(rabbit, frame_max))."
    assert int(rabbitmq.ctl("eval", asked)) == 131_072
