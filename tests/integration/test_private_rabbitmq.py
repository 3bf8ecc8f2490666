"""The private RabbitMQ that the demo and the tests start."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from replicator_sandbox import rabbitmq
from replicator_sandbox.host import find_rabbitmq
from replicator_sandbox.rabbitmq import PrivateRabbitMQ, RabbitMQFailed

from replicator.errors import ServerMissing
from tests.support.consumer import Consumer
from tests.support.proxy import TcpProxy
from tests.support.tls import Certificates, make_certificates
from tests.support.wait import wait_until

pytestmark = pytest.mark.skipif(
    find_rabbitmq() is None and "CI" not in os.environ, reason="no rabbitmq-server here"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def node(certificates: Certificates) -> Iterator[PrivateRabbitMQ]:
    with PrivateRabbitMQ(tls=certificates.of_server()) as node:
        yield node


@contextlib.contextmanager
def channel_of(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


def publish(channel: BlockingChannel, queue: str, body: bytes) -> None:
    properties = pika.BasicProperties(delivery_mode=2)
    channel.basic_publish("", queue, body, properties, mandatory=True)


def processes_of(directory: Path) -> list[str]:
    """The command lines of all processes that have to do with a node's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes()
            if str(directory).encode() in environment:
                found.append((process / "cmdline").read_text())
    return found


def test_a_node_takes_messages_and_listens_on_loopback_only(node: PrivateRabbitMQ) -> None:
    with channel_of(node.add_vhost("plain")) as channel:
        channel.queue_declare("q", durable=True)
        publish(channel, "q", b"x")

    assert node.list_queues("plain") == {"q": 1}
    listeners = node.ctl(
        "eval", "[{A, P} || {_, _, _, _, A, P, _} <- rabbit_networking:active_listeners()]."
    )
    assert f"{{127,0,0,1}},{node.port}" in "".join(listeners.split())
    assert "{0,0,0" not in "".join(listeners.split())


def test_a_blocked_node_tells_its_publishers_and_unblocks_them(node: PrivateRabbitMQ) -> None:
    blocked, unblocked = threading.Event(), threading.Event()
    with channel_of(node.add_vhost("blocked")) as channel:
        channel.queue_declare("q", durable=True)
        connection = channel.connection
        connection.add_on_connection_blocked_callback(lambda *_: blocked.set())
        connection.add_on_connection_unblocked_callback(lambda *_: unblocked.set())
        node.block()
        try:
            sender = channel.connection.channel()  # without confirms: publishing does not wait
            publish(sender, "q", b"x")
            wait_for(connection, blocked.is_set)
        finally:
            node.unblock()
        wait_for(connection, unblocked.is_set)


def wait_for(connection: pika.BlockingConnection, condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        connection.process_data_events(time_limit=0.05)
    pytest.fail("not in time")


def test_a_durable_message_outlives_a_kill(node: PrivateRabbitMQ) -> None:
    url = node.add_vhost("killed")
    with channel_of(url) as channel:
        channel.queue_declare("q", durable=True)
        publish(channel, "q", b"kept")

    node.kill()
    assert not node.is_running
    assert node.pid is None
    node.start()

    with channel_of(url) as channel:
        _, _, body = channel.basic_get("q", auto_ack=True)
    assert body == b"kept"


def test_a_node_that_takes_connections_and_answers_none_is_waited_for(
    node: PrivateRabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.kill()
    with socket.create_server(("127.0.0.1", 0)) as silent, monkeypatch.context() as patch:
        patch.setattr(node, "port", silent.getsockname()[1])
        patch.setattr(rabbitmq, "LOGIN_SECONDS", 0.2)
        patch.setattr(rabbitmq, "START_SECONDS", 1)
        with pytest.raises(RabbitMQFailed, match="did not start"):
            node.start()
    node.start()


def test_a_node_stops_and_starts_on_its_port(node: PrivateRabbitMQ) -> None:
    node.stop()

    assert processes_of(node.directory) == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", node.port), timeout=5)

    node.start()
    node.start()  # starting what runs changes nothing
    with channel_of(node.url) as channel:
        assert channel.is_open


def test_a_paused_node_keeps_its_sockets_and_answers_nothing(node: PrivateRabbitMQ) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        node.pause()
        try:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        finally:
            node.resume()
        connection.settimeout(10)
        assert connection.recv(1) == b"\x01"  # a method frame: connection.start


def test_an_operator_can_close_all_connections(node: PrivateRabbitMQ) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(node.url))

    node.close_connections("maintenance")

    with pytest.raises(AMQPError, match="maintenance"):
        wait_for(connection, lambda: False)


def test_tls_shows_the_given_certificate(node: PrivateRabbitMQ, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca.cert))
    parameters = pika.URLParameters(node.amqps_url)
    parameters.ssl_options = pika.SSLOptions(context, "localhost")

    with pika.BlockingConnection(parameters) as connection:
        assert connection.is_open

    stranger = ssl.create_default_context(cafile=str(certificates.other_ca.cert))
    with (
        socket.create_connection(("127.0.0.1", node.tls_port or 0)) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        stranger.wrap_socket(plain, server_hostname="localhost")


def test_a_failing_command_tells_its_reason(node: PrivateRabbitMQ) -> None:
    with pytest.raises(RabbitMQFailed, match="nowhere"):
        node.ctl("delete_vhost", "nowhere")


def test_a_command_without_an_answer_is_ended_with_its_children(
    node: PrivateRabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "CTL_SECONDS", 3)

    with pytest.raises(RabbitMQFailed, match="eval gave no answer in 3 seconds"):
        node.ctl("eval", "timer:sleep(60000).")

    wait_until(lambda: not any("rabbitmqctl" in each for each in processes_of(node.directory)))


def test_a_command_reads_what_is_typed(node: PrivateRabbitMQ) -> None:
    node.ctl("add_user", "typed", stdin="secret\n")

    assert "Success" in node.ctl("authenticate_user", "typed", "secret")


def test_a_node_that_cannot_start_tells_why_and_leaves_nothing() -> None:
    node = PrivateRabbitMQ(config={"no.such.setting": "1"})

    with pytest.raises(RabbitMQFailed, match=r"no\.such\.setting"), node:
        pass

    assert processes_of(node.directory) == []
    assert not node.directory.exists()


def test_a_missing_server_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "find_rabbitmq", lambda: None)

    with pytest.raises(ServerMissing) as missing:
        PrivateRabbitMQ()

    assert missing.value.hint == "apt-get install rabbitmq-server"


# What the other tests stand on: the consumer, and the proxy between a client and this node.


def test_the_consumer_keeps_the_newest_entry_of_each_document(node: PrivateRabbitMQ) -> None:
    url = node.add_vhost("copied")
    with Consumer(url) as consumer, channel_of(url) as channel:
        for entry, op, body in [
            (1, "create", b'{"old_val": null, "new_val": {"id": 1, "n": 1}}'),
            (3, "update", b'{"old_val": {"id": 1, "n": 1}, "new_val": {"id": 1, "n": 3}}'),
            (2, "update", b'{"old_val": {"id": 1, "n": 1}, "new_val": {"id": 1, "n": 2}}'),
            (4, "create", b'{"old_val": null, "new_val": {"id": "x"}}'),
            (5, "delete", b'{"old_val": {"id": "x"}, "new_val": null}'),
        ]:
            properties = pika.BasicProperties(message_id=f"abcdefgh-{entry}", type=op)
            channel.basic_publish("rethinkdb", f"mytable.{op}", body, properties, mandatory=True)
        history = consumer.wait_for_count(5)

        assert [message.entry for message in history] == [1, 3, 2, 4, 5]
        assert consumer.documents("mytable") == {"1": {"id": 1, "n": 3}}
        assert [message.op for message in consumer.of_document("mytable", "x")] == [
            "create",
            "delete",
        ]


def test_the_proxy_cuts_and_refuses_and_heals(node: PrivateRabbitMQ) -> None:
    with TcpProxy(node.port) as proxy:
        through = node.url.replace(str(node.port), str(proxy.port))
        connection = pika.BlockingConnection(pika.URLParameters(through))
        assert proxy.open_connections == 1

        proxy.refuse()
        with pytest.raises(AMQPError):
            pika.BlockingConnection(pika.URLParameters(through))
        proxy.cut()
        with pytest.raises(AMQPError):
            wait_for(connection, lambda: False)

        proxy.heal()
        with channel_of(through) as channel:
            assert channel.is_open
        assert proxy.connections == 2
