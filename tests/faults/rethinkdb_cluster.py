"""Three RethinkDB servers on one machine, joined, with proxies between them."""

import contextlib
import itertools
import secrets
import struct
from collections.abc import Sequence
from socket import SO_RCVTIMEO, SOL_SOCKET
from typing import Any, NamedTuple, Self

from rethinkdb import errors as reql
from rethinkdb import r

from tests.faults.at_once import at_once
from tests.support.proxy import TcpProxy
from tests.support.rethink import RealRethinkDB, driver_socket
from tests.support.wait import wait_until

SIZE = 3
_HOST = "127.0.0.1"
_START_SECONDS = 60
# How soon the members of a cluster miss each other; the server's default is several times that.
_HEARTBEAT_SECONDS = 3
# The driver knows no timeout for an answer; the kernel does.
_ANSWER_SECONDS = 2
_RECEIVE_TIMEOUT = struct.pack("ll", _ANSWER_SECONDS, 0)
# As many as `cluster_run` writes, so that each shard has its share.
_KEYS = 150
_FILLER = "x" * 300


class Shard(NamedTuple):
    """Where a shard of a table is: numbers of servers."""

    primary: int
    replicas: Sequence[int]

    def as_config(self) -> dict[str, Any]:
        replicas = [f"s{number}" for number in self.replicas]
        return {"primary_replica": f"s{self.primary}", "replicas": replicas}


def everywhere(primary: int) -> Shard:
    """Return a shard with a replica on each server."""
    return Shard(primary, range(SIZE))


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
        self._turns = itertools.count()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            ports = [server.cluster_port for server in self.servers]
            if self._can_part:
                self._proxies = [undo.enter_context(TcpProxy(port)) for port in ports]
                ports = [proxy.port for proxy in self._proxies]
            for number, server in enumerate(self.servers):
                undo.callback(server.close)
                # The first is joined by the others: all its links go through its own proxy.
                joined = ("--join", f"{_HOST}:{ports[0]}") if number else ()
                address = ("--canonical-address", f"{_HOST}:{ports[number]}")
                server._options = ("--server-name", f"s{number}", *address, *joined)
            self.servers[0].start()
            at_once(*(server.start for server in self.servers[1:]))
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

    def connect(self, *, timeout: float = 3) -> Any:
        """Open a connection to the next server; a question that is not answered soon fails.

        Raises:
            ReqlDriverError: this one does not answer; the next call asks another.
        """
        connection = self.connect_to(next(self._turns) % SIZE, timeout)
        sock = driver_socket(connection)
        if sock is None:
            raise reql.ReqlDriverError("the server has hung up")
        sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _RECEIVE_TIMEOUT)
        return connection

    def connect_to(self, number: int, timeout: float = 3) -> Any:
        """Open a driver's connection to one server."""
        return r.connect(host=_HOST, port=self.servers[number].port, timeout=timeout)

    def number_at(self, host: str) -> int:
        """Return the number of the server that listens at ``host:port``."""
        port = int(host.rpartition(":")[2])
        return next(n for n, server in enumerate(self.servers) if server.port == port)

    def make_table(self, *shards: Shard) -> str:
        """Make a table ``mytable`` in a database of its own; return that."""
        database = f"d{secrets.token_hex(6)}"
        table = r.db(database).table("mytable")
        with self.connect_to(0) as driver:
            r.db("rethinkdb").table("cluster_config").get("heartbeat").update(
                {"heartbeat_timeout_secs": _HEARTBEAT_SECONDS}
            ).run(driver)
            r.db_create(database).run(driver)
            r.db(database).table_create("mytable").run(driver)
            if len(shards) > 1:
                # RethinkDB splits a table where its documents are.
                table.insert(r.range(_KEYS).map(lambda n: {"id": n, "x": _FILLER})).run(driver)
        self.place(database, *shards)
        with self.connect_to(0) as driver:
            table.delete(durability="soft").run(driver)
        return database

    def place(self, database: str, *shards: Shard) -> None:
        """Move the table's replicas, as an operator does."""
        config = r.db(database).table("mytable").config()
        asked = shards[0].primary
        with self.connect_to(asked) as driver:
            config.update({"shards": [shard.as_config() for shard in shards]}).run(driver)
        self.wait_until_whole(database, asked)

    def wait_until_whole(self, database: str, asked: int = 0) -> None:
        """Wait until all replicas of the table are ready, as one server sees it."""
        table = r.db(database).table("mytable")

        def is_whole() -> bool:
            with contextlib.suppress(reql.ReqlError, OSError), self.connect_to(asked) as driver:
                return bool(table.status()["status"]["all_replicas_ready"].run(driver))
            return False

        wait_until(is_whole, _START_SECONDS, f"all replicas of {database}.mytable")

    def primaries(self, database: str, asked: int) -> list[int | None]:
        """Return which server has the primary replica of each shard, as one server sees it.

        None are known while that server finds no majority of the table's replicas.
        """
        with self.connect_to(asked) as driver:
            status = r.db(database).table("mytable").status().run(driver)
        names = [shard["primary_replicas"] for shard in status["shards"] or ()]
        return [int(each[0][1:]) if len(each) == 1 else None for each in names]

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
        with self.connect_to(number) as driver:
            seen = r.db("rethinkdb").table("server_status").count().run(driver)
        return bool(seen == SIZE)
