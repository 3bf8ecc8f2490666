"""Three RethinkDB servers that are killed, hang or part, under the whole service.

CI runs the most telling scenarios; FAULTS_LONG=1 runs the rest as well.
"""

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import errors as reql
from rethinkdb import r

from tests.faults.cluster_run import TABLE, ClusterRun, Measured, under_load
from tests.faults.recorder import REPLICATED
from tests.faults.rethinkdb_cluster import RethinkDBCluster, Shard, everywhere
from tests.faults.workload import Writers
from tests.support.rethink import find_rethinkdb
from tests.support.wait import wait_until

long = pytest.mark.skipif(not os.environ.get("FAULTS_LONG"), reason="FAULTS_LONG=1 runs it")
parted = pytest.mark.parametrize("servers", [True], indirect=True, ids=["parted"])
pytestmark = [
    pytest.mark.usefixtures("collected"),
    # The driver forgets a socket without closing it when the server has gone first.
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]

_SOON_SECONDS = 90
# Mostly a few; once more than 90 were seen, while the machine was busy.
_ELECTED_SECONDS = 240
_WITH_ELECTION_SECONDS = 420
# Of two shards: the first is only on the server with the feed, whoever else is cut off.
_APART = (Shard(0, [0]), everywhere(0))


class DoubtfulWrites:
    """Writes at the first server until it is cut off: what was under way then is in doubt."""

    def __init__(self, servers: RethinkDBCluster, writers: Writers, database: str) -> None:
        self._table = r.db(database).table(TABLE)
        self._servers = servers
        self._writers = writers
        self._threads = [
            threading.Thread(target=self._run, args=(f"w{n}",), daemon=True) for n in range(24)
        ]
        self.keys: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for_the_end(self, seconds: float = 30) -> None:
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive()

    def _run(self, name: str) -> None:
        with self._servers.connect_to(0) as driver:
            for number in itertools.count():
                document = self._writers.document(f"{name}-{number}", "in doubt")
                try:
                    self._table.insert(document).run(driver, durability="soft")
                except reql.ReqlOpIndeterminateError:
                    self.keys.append(document["id"])
                    return
                except reql.ReqlRuntimeError:
                    return  # it was not done, for one of several reasons


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[RethinkDBCluster]:
    if find_rethinkdb() is None:
        pytest.skip("no `rethinkdb` program on PATH")
    with RethinkDBCluster(can_part=getattr(request, "param", False)) as made:
        yield made


@pytest.fixture
def shards() -> tuple[Shard, ...]:
    """Where the table is: its primary replica is on the first server."""
    return (everywhere(0),)


@pytest.fixture
def copied(servers: RethinkDBCluster, shards: tuple[Shard, ...]) -> str:
    """The name of the table's database."""
    return servers.make_table(*shards)


@pytest.fixture
def reading(
    servers: RethinkDBCluster, copied: str, rabbitmq: PrivateRabbitMQ, tmp_path: Path
) -> Iterator[ClusterRun]:
    """The service, reading at the first server; RabbitMQ is one node that stays."""
    url = rabbitmq.add_vhost(f"v{uuid.uuid4().hex[:12]}")
    settings = {"RETHINKDB__URL": servers.url, "RABBITMQ__URL": url}
    with under_load(tmp_path, settings, servers, copied, ([url], REPLICATED)) as run:
        assert servers.number_at(run.source()) == 0
        yield run


def heal(servers: RethinkDBCluster, run: ClusterRun) -> None:
    run.note("all servers run and are linked")
    servers.heal()
    servers.wait_until_whole(run.name)
    run.wait_for_deliveries()


@parted
def test_a_minority_with_the_primary_is_left_and_what_it_took_is_taken_back(
    reading: ClusterRun, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    doubtful = DoubtfulWrites(servers, reading.writers, copied)
    doubtful.start()
    reading.wait_for_deliveries()
    reading.note("the first server is cut off")
    servers.part()
    doubtful.wait_for_the_end()
    # Before it heals: the feed at the first server is still open, and says nothing.
    wait_until(
        lambda: servers.number_at(reading.source()) != 0,
        _SOON_SECONDS,
        "the service's leaving the minority",
    )
    reading.wait_for_deliveries()
    # The feed shows a write before any other replica has it. Now and then RethinkDB refuses all of
    # them outright, and none is in doubt: what must hold of the service is the same.
    shown = [key for key in doubtful.keys if reading.of_document(key)]
    with servers.connect_to(1) as driver:
        there = set(r.db(copied).table(TABLE)["id"].coerce_to("array").run(driver))
    taken_back = [key for key in shown if key not in there]
    for key in taken_back:
        wait_until(
            lambda key=key: reading.of_document(key)[-1].op == "delete",
            _SOON_SECONDS,
            f"the delete of {key}",
        )
    heal(servers, reading)
    measured, facts = reading.judge()
    say(measured)
    print(f"  {len(shown)} writes in doubt were shown, {len(taken_back)} of them taken back")
    assert facts.gaps


@parted
@pytest.mark.parametrize("shards", [_APART], ids=["two shards"])
def test_a_busy_feed_of_which_one_shard_has_lost_its_majority_is_noticed(
    reading: ClusterRun, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    """The first server goes on to serve one shard, and its feed tells of that one only.

    Nothing is told from when that is noticed until it heals: no server can read both shards.
    """
    assert servers.primaries(copied, asked=1) == [0, 0]
    reading.note("the first server is cut off")
    servers.part()
    parted_at = time.time()
    wait_until(lambda: not reading.replicator.is_ready(), _SOON_SECONDS, "its noticing")
    wait_until(
        lambda: servers.primaries(copied, asked=1)[1:] in ([1], [2]),
        _ELECTED_SECONDS,
        "a failover",
    )
    # Half of this is written where no feed can be open.
    enough = reading.writers.count + 300
    wait_until(lambda: reading.writers.count >= enough, _SOON_SECONDS, "writes on both sides")
    heal(servers, reading)
    measured, facts = reading.judge()
    say(measured)
    assert any(gap.opened_at < parted_at < (gap.closed_at or 0) for gap in facts.gaps)


@pytest.mark.timeout(_WITH_ELECTION_SECONDS)
def test_the_server_with_the_primary_and_the_feed_is_killed(
    reading: ClusterRun, servers: RethinkDBCluster, copied: str, say: Callable[[Measured], None]
) -> None:
    reading.note("the first server is killed")
    servers.servers[0].kill()
    reading.wait_for_deliveries()
    assert servers.number_at(reading.source()) != 0
    wait_until(
        lambda: servers.primaries(copied, asked=1) in ([1], [2]), _ELECTED_SECONDS, "a failover"
    )
    heal(servers, reading)
    measured, facts = reading.judge()
    say(measured)
    assert facts.gaps


@long
def test_the_server_with_the_primary_and_the_feed_hangs_and_goes_on(
    reading: ClusterRun, servers: RethinkDBCluster, say: Callable[[Measured], None]
) -> None:
    reading.note("the first server hangs")
    servers.servers[0].freeze()
    reading.wait_for_deliveries()
    assert servers.number_at(reading.source()) != 0
    heal(servers, reading)
    measured, _ = reading.judge()
    say(measured)


@long
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_the_server_with_the_primary_fails_while_the_feed_comes_from_another(
    how: str,
    reading: ClusterRun,
    servers: RethinkDBCluster,
    copied: str,
    say: Callable[[Measured], None],
) -> None:
    # The feed stays where it is, or comes back to its turn.
    servers.place(copied, everywhere(2))
    wait_until(lambda: servers.primaries(copied, asked=0) == [2], 30, "the move")
    reading.wait_for_deliveries()
    reading.note(f"{how} of the server with the primary")
    getattr(servers.servers[2], how)()
    reading.wait_for_deliveries()
    heal(servers, reading)
    measured, _ = reading.judge()
    say(measured)


@long
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_each_server_fails_in_turn(
    how: str, reading: ClusterRun, servers: RethinkDBCluster, say: Callable[[Measured], None]
) -> None:
    for number, server in enumerate(servers.servers):
        reading.note(f"{how} of server {number}")
        getattr(server, how)()
        reading.wait_for_deliveries()
        heal(servers, reading)
    measured, _ = reading.judge()
    say(measured)
