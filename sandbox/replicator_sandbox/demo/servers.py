"""The two servers of the demo: its own, or those that the environment names."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from replicator.config import HostPort, RabbitMQUrl, RethinkDBUrl
from replicator.errors import ReplicatorError, SettingsInvalid
from replicator_sandbox.demo.broker_link import BrokerLink
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

_STOP_SECONDS = 10


class DemoFailed(ReplicatorError):
    """Something that the demo started did not do what it should."""


class Broker(Protocol):
    """A RabbitMQ that the replicator can lose."""

    url: str  # for the listener
    url_to_cut: str  # for the replicator
    how_it_is_cut: str | None  # None: it cannot be cut

    def cut(self) -> None:
        """Take it away."""

    def bring_back(self) -> None:
        """Give it back."""


class OwnBroker:
    """A private node, killed and started again on its data."""

    def __init__(self, node: PrivateRabbitMQ) -> None:
        """Wrap a node that runs."""
        self._node = node
        self.url = self.url_to_cut = node.url
        self.how_it_is_cut: str | None = "kill -9 of RabbitMQ"

    def cut(self) -> None:
        """End the node as a crash would."""
        self._node.kill()

    def bring_back(self) -> None:
        """Start the node on its data."""
        self._node.start()


class GivenBroker:
    """Somebody's broker: only the replicator's connections to it can be cut, through a proxy."""

    def __init__(self, url: RabbitMQUrl) -> None:
        """Put a proxy in front, unless TLS would see through it."""
        self.url = self.url_to_cut = url.reveal()
        self.how_it_is_cut: str | None = None
        self._link: BrokerLink | None = None
        if not url.tls:
            host, port = url.hosts[0]
            self._link = BrokerLink(host, port)
            self._link.restore()
            proxied = replace(url, hosts=(HostPort("127.0.0.1", self._link.port),))
            self.url_to_cut = proxied.reveal()
            self.how_it_is_cut = "the connection of the replicator to RabbitMQ is cut"

    def cut(self) -> None:
        """Cut the replicator's connections and refuse new ones."""
        if self._link is not None:
            self._link.cut()

    def bring_back(self) -> None:
        """Forward connections again."""
        if self._link is not None:
            self._link.restore()


@dataclass(frozen=True)
class GivenUrls:
    """Servers that the environment names; None: the demo starts its own."""

    rethinkdb: RethinkDBUrl | None
    rabbitmq: RabbitMQUrl | None


def given_urls(rethinkdb: str | None, rabbitmq: str | None) -> GivenUrls:
    """Read the two URLs.

    Raises:
        SettingsInvalid: one is not a URL; the message does not quote it.
    """
    try:
        source = RethinkDBUrl.parse(rethinkdb) if rethinkdb else None
    except ValueError as err:
        raise SettingsInvalid(f"RETHINKDB_URL: {err}") from err
    try:
        return GivenUrls(source, RabbitMQUrl.parse(rabbitmq) if rabbitmq else None)
    except ValueError as err:
        raise SettingsInvalid(f"RABBITMQ_URL: {err}") from err


@contextmanager
def embedded_rethinkdb() -> Iterator[RethinkDBUrl]:
    """Run the embedded RethinkDB as a process of its own, which never outlives this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "replicator_sandbox", "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is the demo's, which stops everything in order
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            kind, _, url = line.strip().partition(" ")
            if kind == "ready":
                break
        else:
            raise DemoFailed("the embedded RethinkDB did not start")
        yield RethinkDBUrl.parse(url)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()


@contextmanager
def broker_of(given: RabbitMQUrl | None) -> Iterator[Broker]:
    """Start a private RabbitMQ, or use the given one.

    Raises:
        ServerMissing: no URL is given, and RabbitMQ is not installed.
    """
    if given is None:
        with PrivateRabbitMQ() as node:
            yield OwnBroker(node)
        return
    broker = GivenBroker(given)
    try:
        yield broker
    finally:
        broker.cut()
