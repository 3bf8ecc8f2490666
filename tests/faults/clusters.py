"""Clusters of three on one machine: RabbitMQ nodes, and RethinkDB servers with proxies between.

All of it listens on loopback ports of its own and ends with its `with` block.
"""

import contextlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self
from urllib.parse import quote

from rethinkdb import errors as reql
from rethinkdb import r

from replicator.sandbox.rabbitmq import PrivateRabbitMQ, RabbitMQFailed, free_port
from tests.support.proxy import TcpProxy
from tests.support.rethink import RealRethinkDB
from tests.support.wait import wait_until

SIZE = 3
_HOST = "127.0.0.1"
_START_SECONDS = 60
# How soon the members of a cluster miss each other; both servers' defaults are several times that.
_TICK_SECONDS = 8
_HEARTBEAT_SECONDS = 3


def at_once(*calls: Callable[[], object]) -> None:
    """Do several slow things at the same time; raise the first error when all have ended."""
    with ThreadPoolExecutor(len(calls)) as pool:
        done = [pool.submit(call) for call in calls]
    for each in done:
        each.result()


class _Node(PrivateRabbitMQ):
    """A node that finds others: their cookie and their epmd are its own."""

    def __init__(self, name: str, cookie: str, epmd_port: int) -> None:
        # As RabbitMQ advises for three nodes: a minority serves nobody.
        config = {
            "net_ticktime": str(_TICK_SECONDS),
            "cluster_partition_handling": "pause_minority",
        }
        super().__init__(config=config)
        self.name = self._node = name
        self._epmd_port = epmd_port
        file = self.directory / ".erlang.cookie"
        file.chmod(0o600)
        file.write_text(cookie)
        file.chmod(0o400)

    def _start_epmd(self) -> None:
        """Start none: it is the cluster's."""

    def join(self, other: Self) -> None:
        """Become a member of the other's cluster: what three commands do, in one Erlang VM."""
        self.ctl(
            "eval",
            f"ok = rabbit:stop(), ok = rabbit_mnesia:join_cluster('{other.name}', disc),"
            " ok = rabbit:start().",
        )


class RabbitMQCluster:
    """Three RabbitMQ nodes, joined."""

    def __init__(self) -> None:
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self.nodes: list[_Node] = []

    def __enter__(self) -> Self:
        epmd = shutil.which("epmd")
        assert epmd is not None, "there is no epmd program on PATH"
        # In the foreground, and not a node's: nodes come and go.
        self._epmd = subprocess.Popen(
            [epmd, "-address", _HOST, "-port", str(self._epmd_port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            tag, cookie = secrets.token_hex(4), secrets.token_hex(16)
            for number in range(SIZE):
                name = f"replicator-{tag}-{number}@localhost"
                self.nodes.append(_Node(name, cookie, self._epmd_port))
            first, *others = self.nodes
            at_once(*(node.start for node in self.nodes))
            # A node that joins while another does may find the tables of its cluster changed.
            for node in others:
                node.join(first)
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def url(self, vhost: str) -> str:
        """Return the URL with all hosts, as ``rabbitmq.url`` takes it."""
        hosts = ",".join(f"{_HOST}:{node.port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/{quote(vhost, safe='')}"

    def node_at(self, host: str) -> _Node:
        """Return the node that listens at ``host:port``."""
        port = int(host.rpartition(":")[2])
        return next(node for node in self.nodes if node.port == port)

    def wait_until_whole(self) -> None:
        """Wait until each node sees all of them, and no partition."""
        wait_until(lambda: all(map(self._sees_all, self.nodes)), _START_SECONDS, "the cluster")

    def _sees_all(self, asked: _Node) -> bool:
        try:
            status = json.loads(asked.ctl("cluster_status", "--formatter", "json"))
        except RabbitMQFailed:
            return False
        return len(status["running_nodes"]) == SIZE and not status["partitions"]

    def leader(self, vhost: str, queue: str, asked: _Node) -> _Node:
        """Return the node on which a quorum queue has its leader."""
        text = asked.ctl("list_queues", "--vhost", vhost, "--formatter", "json", "name", "leader")
        name = next(each["leader"] for each in json.loads(text) if each["name"] == queue)
        return next(node for node in self.nodes if node.name == name)

    def move_leader(self, vhost: str, queue: str, to: _Node) -> None:
        """Let another member lead a quorum queue, as an operator's rebalancing does."""
        to.ctl(
            "eval",
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue,'
            f' <<"{queue}">>)), {{migrated, _}} = rabbit_quorum_queue:transfer_leadership(Q,'
            f" '{to.name}').",
        )

    def heal(self) -> None:
        """Have all nodes running, whatever was done to them."""
        at_once(*(node.start for node in self.nodes))
        self.wait_until_whole()


class RethinkDBCluster:
    """Three RethinkDB servers, ``s0`` to ``s2``."""

    def __init__(self, *, can_part: bool = False) -> None:
        """Prepare the servers.

        Args:
            can_part: put a proxy before each server's cluster port, for `part`. Then none of them
                may be killed: a server that reconnects to another one by way of a proxy which
                accepts and resets ends by an assertion of its own (RethinkDB 2.4.4,
                ``Guarantee failed: [peer.ips().size() > 0]``).
        """
        self.servers = [RealRethinkDB(cache_megabytes=32) for _ in range(SIZE)]
        self._can_part = can_part
        self._ends = contextlib.ExitStack()
        self._proxies: list[TcpProxy] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            ports = [server._cluster_port for server in self.servers]
            if self._can_part:
                self._proxies = [undo.enter_context(TcpProxy(port)) for port in ports]
                ports = [proxy.port for proxy in self._proxies]
            for number, server in enumerate(self.servers):
                undo.callback(server.close)
                # The first is joined by the others: all its links go through its own proxy.
                joined = ("--join", f"{_HOST}:{ports[0]}") if number else ()
                address = ("--canonical-address", f"{_HOST}:{ports[number]}")
                server._options = ("--server-name", f"s{number}", *address, *joined)
                server.start()
            self._wait_until_joined()
            self._ends = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @property
    def url(self) -> str:
        """The URL with all hosts, as ``rethinkdb.url`` takes it."""
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        return f"rethinkdb://admin@{hosts}"

    def connect(self, number: int) -> Any:
        """Open a driver's connection to one server."""
        return r.connect(host=_HOST, port=self.servers[number].port, timeout=3)

    def number_at(self, host: str) -> int:
        """Return the number of the server that listens at ``host:port``."""
        port = int(host.rpartition(":")[2])
        return next(n for n, server in enumerate(self.servers) if server.port == port)

    def make_table(self, *, primary: int) -> str:
        """Make a table ``mytable`` with three replicas in a database of its own; return that."""
        database = f"d{secrets.token_hex(6)}"
        with self.connect(0) as driver:
            r.db("rethinkdb").table("cluster_config").get("heartbeat").update(
                {"heartbeat_timeout_secs": _HEARTBEAT_SECONDS}
            ).run(driver)
            r.db_create(database).run(driver)
            r.db(database).table_create("mytable").run(driver)
            replicas = [f"s{number}" for number in range(SIZE)]
            shard = {"primary_replica": f"s{primary}", "replicas": replicas}
            r.db(database).table("mytable").config().update({"shards": [shard]}).run(driver)
        self.wait_until_whole(database, primary)
        return database

    def wait_until_whole(self, database: str, asked: int = 0) -> None:
        """Wait until all replicas of the table are ready, as one server sees it."""
        table = r.db(database).table("mytable")

        def is_whole() -> bool:
            with contextlib.suppress(reql.ReqlError, OSError), self.connect(asked) as driver:
                return bool(table.status()["status"]["all_replicas_ready"].run(driver))
            return False

        wait_until(is_whole, _START_SECONDS, f"all replicas of {database}.mytable")

    def primary(self, database: str, asked: int) -> int | None:
        """Return which server has the primary replica, as another one sees it."""
        with self.connect(asked) as driver:
            status = r.db(database).table("mytable").status().run(driver)
        names = status["shards"][0]["primary_replicas"]
        return int(names[0][1:]) if len(names) == 1 else None

    def part(self) -> None:
        """Cut the first server off from the others: nothing arrives, and nobody is told.

        Clients still reach all of them. Once in a cluster's life: links that are made after the
        healing may go another way.
        """
        first, *others = self._proxies
        # Order matters: a new link to one of the others would be around the first one's proxy.
        for proxy in others:
            proxy.refuse()
        first.go_deaf()

    def heal(self) -> None:
        """Have all servers running and linked, whatever was done to them."""
        for proxy in self._proxies:
            proxy.heal()
        for server in self.servers:
            if server._process is None:
                server.start()
            server.thaw()
        self._wait_until_joined()

    def _wait_until_joined(self) -> None:
        def is_joined() -> bool:
            with contextlib.suppress(reql.ReqlError, OSError):
                return all(self._sees_all(number) for number in range(SIZE))
            return False

        wait_until(is_joined, _START_SECONDS, "the RethinkDB servers' joining")

    def _sees_all(self, number: int) -> bool:
        with self.connect(number) as driver:
            seen = r.db("rethinkdb").table("server_status").count().run(driver)
        return bool(seen == SIZE)
