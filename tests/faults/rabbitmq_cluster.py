"""Three RabbitMQ nodes on one machine, joined, with an operator's shell inside of them."""

import secrets
from typing import Self
from urllib.parse import quote

from replicator_sandbox.host import find_rabbitmq, free_port
from replicator_sandbox.rabbitmq import PrivateRabbitMQ, RabbitMQFailed, run_epmd

from tests.faults.at_once import at_once
from tests.faults.erlang import ErlangShell, OrderFailed
from tests.support.wait import wait_until

SIZE = 3
_HOST = "127.0.0.1"
_START_SECONDS = 60
# How soon the members of a cluster miss each other; the server's default is several times that.
_TICK_SECONDS = 8
# As RabbitMQ advises for three nodes: a minority serves nobody.
_ON_PARTITION = "pause_minority"


class _Node(PrivateRabbitMQ):
    """A node that finds others: their cookie and their epmd are its own."""

    def __init__(self, name: str, cookie: str, epmd_port: int) -> None:
        config = {
            "net_ticktime": str(_TICK_SECONDS),
            "cluster_partition_handling": _ON_PARTITION,
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


class RabbitMQCluster:
    """Three RabbitMQ nodes, joined."""

    def __init__(self) -> None:
        self._epmd_port = free_port()
        programs = find_rabbitmq()
        assert programs is not None, "rabbitmq-server is not installed"
        # Not a node's: nodes come and go.
        self._epmd = run_epmd(programs, self._epmd_port)
        self._cookie = secrets.token_hex(16)
        self._shell: ErlangShell | None = None
        self.nodes: list[_Node] = []

    def __enter__(self) -> Self:
        try:
            tag = secrets.token_hex(4)
            for number in range(SIZE):
                name = f"replicator-{tag}-{number}@localhost"
                self.nodes.append(_Node(name, self._cookie, self._epmd_port))
            first, *others = self.nodes
            at_once(*(node.start for node in self.nodes))
            self._shell = ErlangShell(first)
            # A node that joins while another does may find the tables of its cluster changed.
            for node in others:
                self._join(node, first)
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        for node in self.nodes:
            node.close()
        self._epmd.kill()
        self._epmd.wait()

    def eval(self, expression: str, at: _Node) -> str:
        """Evaluate an Erlang expression on a node, as `ErlangShell.eval` does."""
        assert self._shell is not None
        return self._shell.eval(expression, at.name)

    def _join(self, node: _Node, other: _Node) -> None:
        """Make a node a member of another's cluster: what three commands do."""
        self.eval(
            f"ok = rabbit:stop(), ok = rabbit_mnesia:join_cluster('{other.name}', disc),"
            " ok = rabbit:start()",
            at=node,
        )

    def add_vhost(self, name: str) -> None:
        """Make a virtual host that guest may use."""
        anything = '<<".*">>, <<".*">>, <<".*">>'
        self.eval(
            f'rabbit_vhost:add(<<"{name}">>, <<"faults">>), rabbit_auth_backend_internal:'
            f'set_permissions(<<"guest">>, <<"{name}">>, {anything}, <<"faults">>)',
            at=self.nodes[0],
        )

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
        running = "length(rabbit_mnesia:cluster_nodes(running))"
        try:
            seen = self.eval(f"{{{running}, rabbit_node_monitor:partitions()}}", asked)
        except OrderFailed:
            return False
        return seen == f"{{{SIZE},[]}}"

    def lead(self, vhost: str, queue: str, node: _Node) -> None:
        """Let a node lead a quorum queue, as an operator's rebalancing does."""
        found = f'rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))'
        leader = f"(fun({{ok, Q}}) -> rabbit_quorum_queue:info(Q, [leader]) end)({found})"
        is_led = f"[{{leader,'{node.name}'}}]"
        if self.eval(leader, node) == is_led:
            return
        move = f"{{migrated, _}} = rabbit_quorum_queue:transfer_leadership(Q, '{node.name}')"
        self.eval(f"(fun({{ok, Q}}) -> {move} end)({found})", node)
        wait_until(lambda: self.eval(leader, node) == is_led, _START_SECONDS, "the move")

    def on_partition(self, answer: str) -> None:
        """Let all nodes answer a partition in one of RabbitMQ's ways, such as ``ignore``."""
        for node in self.nodes:
            self.eval(f"application:set_env(rabbit, cluster_partition_handling, {answer})", node)

    def start_again(self) -> None:
        """Start the nodes that were killed.

        Nodes of RabbitMQ 3.10 whose majority was killed at once may wait for each other's tables
        without end. Then the one that was left decides, as an operator has it with `force_boot`.
        """
        left = next((node for node in self.nodes if node.is_running), self.nodes[0])
        try:
            at_once(*(node.start for node in self.nodes))
        except RabbitMQFailed:
            self.force_boot(left)

    def force_boot(self, newest: _Node) -> None:
        """Kill all nodes and start them on what one of them has in its tables."""
        at_once(*(node.kill for node in self.nodes if node.is_running))
        newest.ctl("force_boot")
        at_once(*(node.start for node in self.nodes))

    def part(self, node: _Node) -> None:
        """Cut one node off from the others; clients still reach all of them.

        From here on the two sides refuse each other: their cookies for one another differ.
        """
        for other in self.nodes:
            if other is not node:
                self._set_cookies(node, other, "wrong", "different")
        self.eval("[erlang:disconnect_node(Node) || Node <- nodes()]", node)

    def wait_until_parted(self, node: _Node) -> None:
        """Wait until the others miss the node; it may not be running then, or alone."""
        two = ",".join(f"'{each.name}'" for each in self.nodes if each is not node)
        missed = f"lists:sort(rabbit_mnesia:cluster_nodes(running)) == lists:sort([{two}])"
        others = [each for each in self.nodes if each is not node]
        wait_until(
            lambda: all(self.eval(missed, each) == "true" for each in others),
            _START_SECONDS,
            "the partition",
        )

    def wait_until_partition_is_known(self, node: _Node) -> None:
        """Wait until the node, which hears of the others again, says that it was parted."""
        parted = "rabbit_node_monitor:partitions() =/= []"
        wait_until(lambda: self.eval(parted, node) == "true", _START_SECONDS, "its noticing")

    def rejoin(self, node: _Node) -> None:
        """Let a node that was cut off and the others talk again."""
        for other in self.nodes:
            if other is not node:
                self._set_cookies(node, other, self._cookie, self._cookie)

    def _set_cookies(self, one: _Node, other: _Node, of_one: str, of_other: str) -> None:
        self.eval(f"erlang:set_cookie('{other.name}', '{of_one}')", one)
        self.eval(f"erlang:set_cookie('{one.name}', '{of_other}')", other)

    def heal(self) -> None:
        """Have all nodes running and talking, whatever was done to them."""
        self.start_again()
        for node in self.nodes:
            self.rejoin(node)
        self.on_partition(_ON_PARTITION)
        self.wait_until_whole()
