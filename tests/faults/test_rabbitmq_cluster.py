"""Three RabbitMQ nodes that are killed, hang or part; a quorum queue and the whole service.

CI runs the most telling scenarios; FAULTS_LONG=1 runs the rest as well.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from replicator_sandbox.host import find_rabbitmq

from tests.faults.at_once import at_once
from tests.faults.cluster_run import ClusterRun, Measured, under_load
from tests.faults.rabbitmq_cluster import RabbitMQCluster
from tests.faults.recorder import QUEUE, REPLICATED
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

long = pytest.mark.skipif(not os.environ.get("FAULTS_LONG"), reason="FAULTS_LONG=1 runs it")
pytestmark = [
    pytest.mark.usefixtures("collected"),
    # pika's blocking connection, the recorder's, may forget its sockets when its node is killed.
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]

_SOON_SECONDS = 90


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
    nodes.add_vhost(name)
    return name


@pytest.fixture
def publishing(
    nodes: RabbitMQCluster, vhost: str, rethinkdb: RethinkServer, database: str, tmp_path: Path
) -> Iterator[ClusterRun]:
    settings = {"RETHINKDB__URL": rethinkdb.url, "RABBITMQ__URL": nodes.url(vhost)}
    queue = ([node.url_of(vhost) for node in nodes.nodes], REPLICATED)
    with under_load(tmp_path, settings, rethinkdb, database, queue) as run:
        yield run


def test_the_leaders_node_and_then_a_majority_of_rabbitmq_are_killed(
    publishing: ClusterRun, nodes: RabbitMQCluster, vhost: str, say: Callable[[Measured], None]
) -> None:
    first = nodes.node_at(publishing.broker())
    nodes.lead(vhost, QUEUE, first)
    publishing.wait_for_deliveries()

    publishing.note("the leader's node is killed")
    first.kill()
    publishing.wait_for_deliveries()
    second = nodes.node_at(publishing.broker())
    assert second is not first
    first.start()

    (third,) = [node for node in nodes.nodes if node not in (first, second)]
    publishing.note("a majority is killed")
    at_once(second.kill, third.kill)
    wait_until(lambda: publishing.pending() > 200, _SOON_SECONDS, "a backlog")
    confirmed = publishing.metric("replicator_entries_confirmed_total")
    backlog = publishing.pending()
    wait_until(lambda: publishing.pending() > backlog + 300, _SOON_SECONDS, "more of it")
    assert publishing.metric("replicator_entries_confirmed_total") == confirmed
    nodes.start_again()

    publishing.wait_for_deliveries(600)
    measured, facts = publishing.judge()
    say(measured)
    assert facts.gaps == []


@pytest.mark.parametrize(
    "answer",
    [
        # As RabbitMQ advises for three nodes: a minority serves nobody.
        "pause_minority",
        # As it is by default: a minority takes connections and messages, and confirms nothing.
        pytest.param("ignore", marks=long),
    ],
)
def test_the_node_that_is_published_to_is_cut_off_from_the_others(
    answer: str,
    publishing: ClusterRun,
    nodes: RabbitMQCluster,
    vhost: str,
    say: Callable[[Measured], None],
) -> None:
    nodes.on_partition(answer)
    cut_off = nodes.node_at(publishing.broker())
    # What was being confirmed when the link broke has then left its leader, or has not.
    nodes.lead(vhost, QUEUE, cut_off)
    publishing.wait_for_deliveries()
    publishing.note("a node is cut off")
    nodes.part(cut_off)
    nodes.wait_until_parted(cut_off)
    if answer == "pause_minority":
        publishing.wait_for_deliveries(400)
        assert nodes.node_at(publishing.broker()) is not cut_off
    else:
        wait_until(lambda: publishing.pending() > 300, _SOON_SECONDS, "a backlog")
    publishing.note("the partition heals")
    nodes.rejoin(cut_off)
    if answer == "ignore":
        # It stays a partition by itself until an operator restarts it.
        nodes.wait_until_partition_is_known(cut_off)
        cut_off.kill()
        cut_off.start()
    nodes.wait_until_whole()
    publishing.wait_for_deliveries(600)
    measured, facts = publishing.judge()
    say(measured)
    assert facts.gaps == []


@long
def test_each_rabbitmq_node_is_killed_in_turn(
    publishing: ClusterRun, nodes: RabbitMQCluster, say: Callable[[Measured], None]
) -> None:
    for node in nodes.nodes:
        publishing.note(f"{node.name} is killed")
        node.kill()
        publishing.wait_for_deliveries()
        node.start()
        publishing.wait_for_deliveries()
    measured, facts = publishing.judge()
    say(measured)
    assert facts.gaps == []


@long
def test_the_leader_of_the_queue_is_moved_from_node_to_node(
    publishing: ClusterRun, nodes: RabbitMQCluster, vhost: str, say: Callable[[Measured], None]
) -> None:
    for node in [*nodes.nodes, *nodes.nodes]:
        nodes.lead(vhost, QUEUE, node)
        publishing.wait_for_deliveries(100)
    measured, _ = publishing.judge()
    say(measured)
    assert publishing.metric("replicator_reconnects_total", peer="rabbitmq") == 0


@long
def test_the_rabbitmq_node_that_is_published_to_hangs_and_goes_on(
    publishing: ClusterRun, nodes: RabbitMQCluster, say: Callable[[Measured], None]
) -> None:
    hung = nodes.node_at(publishing.broker())
    publishing.note("a node hangs")
    hung.pause()
    try:
        publishing.wait_for_deliveries()
    finally:
        hung.resume()
    assert nodes.node_at(publishing.broker()) is not hung
    publishing.wait_for_deliveries()
    # The others went on without it: it is a partition by itself until an operator restarts it.
    hung.kill()
    hung.start()
    nodes.wait_until_whole()
    publishing.wait_for_deliveries()
    measured, _ = publishing.judge()
    say(measured)
