"""A broker of its own settings: TLS, client certificates, and a limit on messages."""

import json
from collections.abc import Iterator

import pytest
from replicator_sandbox.host import find_rabbitmq
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from replicator.errors import BrokerRefused
from replicator.publisher.broker import Broker
from tests.support.consumer import Consumer
from tests.support.publishing import (
    RunningPublisher,
    assert_all_arrived_in_order,
    broker_of,
    make_entries,
    make_entry,
)
from tests.support.tls import Certificates, make_certificates
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("rabbitmq")  # skips, or fails in CI, where there is none

_MAX_MESSAGE = 100_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def node(certificates: Certificates) -> Iterator[PrivateRabbitMQ]:
    if find_rabbitmq() is None:
        pytest.skip("rabbitmq-server is not installed")
    config = {
        "max_message_size": str(_MAX_MESSAGE),
        "ssl_cert_login_from": "common_name",
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
    }
    node = PrivateRabbitMQ(
        tls=certificates.of_server(), config=config, plugins=["rabbitmq_auth_mechanism_ssl"]
    )
    with node:
        yield node


@pytest.fixture
def tls(node: PrivateRabbitMQ, certificates: Certificates) -> Broker:
    return broker_of(
        node.url,
        hosts=[("localhost", node.tls_port)],
        is_tls=True,
        tls_ca_file=certificates.ca.cert,
    )


def test_the_right_ca_is_trusted(tls: Broker, node: PrivateRabbitMQ) -> None:
    with Consumer(node.url) as consumer, RunningPublisher(tls) as publisher:
        first = len(consumer.history)
        publisher.offer([make_entry(1)])
        assert consumer.wait_for_count(first + 1)[-1].entry == 1


def test_another_ca_is_refused(tls: Broker, certificates: Certificates) -> None:
    with RunningPublisher(tls._replace(tls_ca_file=certificates.other_ca.cert)) as publisher:
        error = publisher.wait_for_refusal()
    assert isinstance(error, BrokerRefused)
    assert "certificate that cannot be trusted" in str(error)
    assert "tls_ca_file" in str(error.hint)


def test_a_certificate_for_another_host_is_refused(certificates: Certificates) -> None:
    with PrivateRabbitMQ(tls=certificates.of_server(certificates.elsewhere)) as node:
        broker = broker_of(
            node.url,
            hosts=[("localhost", node.tls_port)],
            is_tls=True,
            tls_ca_file=certificates.ca.cert,
        )
        with RunningPublisher(broker) as publisher:
            error = publisher.wait_for_refusal()
    assert isinstance(error, BrokerRefused)
    assert "localhost" in str(error)


def test_a_client_certificate_logs_in(
    tls: Broker, node: PrivateRabbitMQ, certificates: Certificates
) -> None:
    external = tls._replace(
        user=None,
        password="",
        tls_cert_file=certificates.client.cert,
        tls_key_file=certificates.client.key,
    )
    with RunningPublisher(external) as publisher:
        error = publisher.wait_for_refusal()  # nobody has this name yet
    assert isinstance(error, BrokerRefused)
    node.ctl("add_user", "replicator", "not used")
    node.ctl("clear_password", "replicator")
    node.ctl("set_permissions", "replicator", ".*", ".*", ".*")
    with Consumer(node.url) as consumer, RunningPublisher(external) as publisher:
        first = len(consumer.history)
        publisher.offer([make_entry(1)])
        consumer.wait_for_count(first + 1)
        connections = node.ctl("list_connections", "user", "ssl")
    assert "replicator\ttrue" in connections


def test_a_tls_port_spoken_to_without_tls_is_no_hang(tls: Broker) -> None:
    with RunningPublisher(tls._replace(is_tls=False)) as publisher:
        wait_until(lambda: publisher.publisher.status().error, 20, "an error to show")
    assert publisher.settled == []


def test_messages_that_are_too_large_are_parked_and_all_others_arrive(
    node: PrivateRabbitMQ,
) -> None:
    vhost = node.add_vhost("large")
    text = "x" * (_MAX_MESSAGE + 1)
    large = json.dumps({"old_val": None, "new_val": {"id": "large", "text": text}}).encode()
    entries = make_entries(600, keys=10)
    for number in (301, 450):
        entries[number - 1] = make_entry(number, "large", body=large)
    # Later entries of the same document must not wait for the one that is parked.
    entries[500] = make_entry(501, "large")
    arriving = [entry for entry in entries if entry.body is not large]
    with Consumer(vhost) as consumer, RunningPublisher(vhost) as publisher:
        publisher.offer(entries)
        publisher.wait_until_settled(598, 60)
        wait_until(lambda: len(publisher.parked) == 2, 20, "parked entries")
        assert_all_arrived_in_order(consumer, arriving)
        # The search for it is over: the window is as wide as before.
        wait_until(lambda: publisher.window.cap is None, 5, "the whole window")
    assert [(each.number, each.reason) for each in publisher.parked] == [
        (301, "too_large"),
        (450, "too_large"),
    ]
    assert sorted(publisher.settled) == [entry.number for entry in arriving]
    assert not {301, 450} & {message.entry for message in consumer.history}
