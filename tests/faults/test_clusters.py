"""Clusters that lose members: three RabbitMQ nodes, three RethinkDB servers, the whole service.

CI runs the most telling scenarios; FAULTS_LONG=1 runs the rest as well.
"""

import gc
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from replicator.sandbox.rabbitmq import find_rabbitmq
from tests.faults.cluster_clients import (
    QUEUE,
    ClusterConsumer,
    ClusterWriter,
    DoubtfulWrites,
    Measured,
    assert_converges,
    broker_of,
    gaps,
    source_of,
)
from tests.faults.clusters import RabbitMQCluster, RethinkDBCluster, at_once
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import find_rethinkdb
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until
from tests.support.writer import truth

long = pytest.mark.skipif(not os.environ.get("FAULTS_LONG"), reason="FAULTS_LONG=1 runs it")

pytestmark = [
    pytest.mark.usefixtures("collected"),
    # The driver forgets a socket without closing it when the server has gone first.
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]

# A hung member is missed by a heartbeat; the default is made for slow links.
_HEARTBEAT = "4s"
_SOON_SECONDS = 90


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect the sockets that the driver leaks while the test's own filter knows the warnings."""
    yield
    gc.collect()


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[Measured], None]:
    """Keeps what a scenario measured: shown with ``-s``, and in a report of the run."""

    def keep(measured: Measured) -> None:
        record_property("measured", str(measured))
        print(f"\n  {measured}")

    return keep


class Run:
    """The service and those around it, under load."""

    def __init__(
        self, process: ReplicatorProcess, consumer: ClusterConsumer, writer: ClusterWriter
    ) -> None:
        self.process = process
        self.consumer = consumer
        self.writer = writer

    def pending(self) -> int:
        return int(self.process.status()["outbox"]["pending"])

    def wait_for_messages(self, more: int = 200) -> None:
        self.consumer.wait_for_more(more, _SOON_SECONDS)


# RabbitMQ.


class OneServer:
    """A RethinkDB of one server, for whoever wants several."""

    def __init__(self, server: RethinkServer) -> None:
        self._server = server

    def connect(self, _number: int) -> Any:
        return self._server.connect()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RabbitMQCluster]:
    if find_rabbitmq() is None and not os.environ.get("CI"):
        pytest.skip("rabbitmq-server is not installed")
    with RabbitMQCluster() as cluster:
        yield cluster


@pytest.fixture
def vhost(nodes: RabbitMQCluster) -> str:
    """The name of a virtual host of the test's own."""
    nodes.heal()
    name = f"v{uuid.uuid4().hex[:12]}"
    nodes.nodes[0].add_vhost(name)
    return name


@pytest.fixture
def publishing(
    nodes: RabbitMQCluster, vhost: str, rethinkdb: RethinkServer, database: str, tmp_path: Path
) -> Iterator[Run]:
    settings = {
        "TABLES": f"{database}.mytable",
        "RETHINKDB__URL": rethinkdb.url,
        "RABBITMQ__URL": nodes.url(vhost),
        "RABBITMQ__HEARTBEAT": _HEARTBEAT,
    }
    process = ReplicatorProcess(tmp_path, settings)
    urls = [node.url_of(vhost) for node in nodes.nodes]
    try:
        with (
            ClusterConsumer(urls) as consumer,
            ClusterWriter(OneServer(rethinkdb), database, seed=31) as writer,
        ):
            process.start_and_wait()
            run = Run(process, consumer, writer)
            run.wait_for_messages()
            yield run
    finally:
        process.close()


def test_the_leaders_node_and_then_a_majority_of_rabbitmq_are_killed(
    publishing: Run,
    nodes: RabbitMQCluster,
    vhost: str,
    rethinkdb: RethinkServer,
    database: str,
    say: Callable[[Measured], None],
) -> None:
    first = nodes.node_at(broker_of(publishing.process))
    if nodes.leader(vhost, QUEUE, first) is not first:
        nodes.move_leader(vhost, QUEUE, first)
    assert nodes.leader(vhost, QUEUE, first) is first
    publishing.wait_for_messages()

    first.kill()
    publishing.wait_for_messages()
    second = nodes.node_at(broker_of(publishing.process))
    assert second is not first
    first.start()

    (third,) = [node for node in nodes.nodes if node not in (first, second)]
    at_once(second.kill, third.kill)
    wait_until(lambda: publishing.pending() > 200, _SOON_SECONDS, "a backlog")
    confirmed = publishing.process.metric("replicator_entries_confirmed_total")
    backlog = publishing.pending()
    wait_until(lambda: publishing.pending() > backlog + 300, _SOON_SECONDS, "more of it")
    assert publishing.process.metric("replicator_entries_confirmed_total") == confirmed
    at_once(second.start, third.start)

    publishing.wait_for_messages(600)
    publishing.writer.stop()
    say(assert_converges(OneServer(rethinkdb), database, publishing.consumer, publishing.process))
    assert gaps(publishing.process) == []


@long
def test_each_rabbitmq_node_is_killed_in_turn(
    publishing: Run,
    nodes: RabbitMQCluster,
    rethinkdb: RethinkServer,
    database: str,
    say: Callable[[Measured], None],
) -> None:
    for node in nodes.nodes:
        node.kill()
        publishing.wait_for_messages()
        node.start()
        publishing.wait_for_messages()
    publishing.writer.stop()
    say(assert_converges(OneServer(rethinkdb), database, publishing.consumer, publishing.process))
    assert gaps(publishing.process) == []


@long
def test_the_leader_of_the_queue_is_moved_from_node_to_node(
    publishing: Run,
    nodes: RabbitMQCluster,
    vhost: str,
    rethinkdb: RethinkServer,
    database: str,
    say: Callable[[Measured], None],
) -> None:
    for node in [*nodes.nodes, *nodes.nodes]:
        if nodes.leader(vhost, QUEUE, node) is not node:
            nodes.move_leader(vhost, QUEUE, node)
        publishing.wait_for_messages(100)
    publishing.writer.stop()
    say(assert_converges(OneServer(rethinkdb), database, publishing.consumer, publishing.process))
    assert publishing.process.metric("replicator_reconnects_total", peer="rabbitmq") == 0


@long
def test_the_rabbitmq_node_that_is_published_to_hangs_and_goes_on(
    publishing: Run,
    nodes: RabbitMQCluster,
    rethinkdb: RethinkServer,
    database: str,
    say: Callable[[Measured], None],
) -> None:
    hung = nodes.node_at(broker_of(publishing.process))
    hung.pause()
    try:
        publishing.wait_for_messages()
    finally:
        hung.resume()
    assert nodes.node_at(broker_of(publishing.process)) is not hung
    publishing.wait_for_messages()
    # The others went on without it: it is a partition by itself until an operator restarts it.
    hung.kill()
    hung.start()
    nodes.wait_until_whole()
    publishing.wait_for_messages()
    publishing.writer.stop()
    say(assert_converges(OneServer(rethinkdb), database, publishing.consumer, publishing.process))


# RethinkDB.


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[RethinkDBCluster]:
    if find_rethinkdb() is None:
        pytest.skip("no `rethinkdb` program on PATH")
    with RethinkDBCluster(can_part=getattr(request, "param", False)) as made:
        yield made


@pytest.fixture
def copied(servers: RethinkDBCluster) -> str:
    """The name of a database; its table's primary replica is on the first server."""
    return servers.make_table(primary=0)


@pytest.fixture
def reading(
    servers: RethinkDBCluster, copied: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Run]:
    """The service, reading at the first server; RabbitMQ is one node that stays."""
    rabbitmq = request.getfixturevalue("rabbitmq")
    url = rabbitmq.add_vhost(f"v{uuid.uuid4().hex[:12]}")
    settings = {
        "TABLES": f"{copied}.mytable",
        "RETHINKDB__URL": servers.url,
        "RABBITMQ__URL": url,
    }
    process = ReplicatorProcess(tmp_path, settings)
    try:
        with (
            ClusterConsumer([url]) as consumer,
            ClusterWriter(servers, copied, seed=32) as writer,
        ):
            process.start_and_wait()
            assert servers.number_at(source_of(process)) == 0
            run = Run(process, consumer, writer)
            run.wait_for_messages()
            yield run
    finally:
        process.close()


@pytest.mark.parametrize("servers", [True], indirect=True, ids=["parted"])
def test_a_minority_with_the_primary_is_left_and_what_it_took_is_taken_back(
    reading: Run, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    doubtful = DoubtfulWrites(servers, copied)
    doubtful.start()
    reading.wait_for_messages()
    servers.part()
    doubtful.wait_for_the_end()
    # The feed shows a write before any other replica has it.
    shown = [key for key in doubtful.keys if reading.consumer.of_document("mytable", key)]
    assert shown
    # Before it heals: the feed at the first server is still open, and says nothing.
    wait_until(
        lambda: servers.number_at(source_of(reading.process)) != 0,
        _SOON_SECONDS,
        "the service's leaving the minority",
    )
    reading.wait_for_messages()
    with servers.connect(1) as driver:
        taken_back = [key for key in shown if json.dumps(key) not in truth(driver, copied)]
    for key in taken_back:
        reading.consumer.wait_for(
            lambda _, key=key: reading.consumer.of_document("mytable", key)[-1].op == "delete"
        )
    servers.heal()
    servers.wait_until_whole(copied)
    reading.wait_for_messages()
    reading.writer.stop()
    say(assert_converges(servers, copied, reading.consumer, reading.process))
    print(f"  {len(shown)} writes in doubt were shown, {len(taken_back)} of them taken back")
    assert gaps(reading.process)


def test_the_server_with_the_primary_and_the_feed_is_killed(
    reading: Run, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    servers.servers[0].kill()
    reading.wait_for_messages()
    assert servers.number_at(source_of(reading.process)) != 0
    assert servers.primary(copied, asked=1) != 0
    servers.heal()
    servers.wait_until_whole(copied)
    reading.wait_for_messages()
    reading.writer.stop()
    say(assert_converges(servers, copied, reading.consumer, reading.process))
    assert gaps(reading.process)


@long
def test_the_server_with_the_primary_and_the_feed_hangs_and_goes_on(
    reading: Run, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    servers.servers[0].freeze()
    reading.wait_for_messages()
    assert servers.number_at(source_of(reading.process)) != 0
    servers.heal()
    servers.wait_until_whole(copied)
    reading.wait_for_messages()
    reading.writer.stop()
    say(assert_converges(servers, copied, reading.consumer, reading.process))


@long
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_the_server_with_the_primary_fails_while_the_feed_comes_from_another(
    how: str, reading: Run, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    with servers.connect(0) as driver:
        # As an operator moves it: the feed stays where it is, or comes back to its turn.
        shard = {"primary_replica": "s2", "replicas": ["s0", "s1", "s2"]}
        r.db(copied).table("mytable").config().update({"shards": [shard]}).run(driver)
    wait_until(lambda: servers.primary(copied, asked=0) == 2, 30, "the move")
    reading.wait_for_messages()
    getattr(servers.servers[2], how)()
    reading.wait_for_messages()
    servers.heal()
    servers.wait_until_whole(copied)
    reading.wait_for_messages()
    reading.writer.stop()
    say(assert_converges(servers, copied, reading.consumer, reading.process))


@long
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_each_server_fails_in_turn(
    how: str, reading: Run, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    for server in servers.servers:
        getattr(server, how)()
        reading.wait_for_messages()
        servers.heal()
        servers.wait_until_whole(copied)
        reading.wait_for_messages()
    reading.writer.stop()
    say(assert_converges(servers, copied, reading.consumer, reading.process))
