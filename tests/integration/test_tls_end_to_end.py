"""TLS on both sides at once, through the whole service, with a real RethinkDB and RabbitMQ."""

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator.domain.model import TableName
from tests.support.consumer import Consumer
from tests.support.reading import new_table
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.tls import Certificate, Certificates, make_certificates
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.usefixtures("rabbitmq"),  # skips, or fails in CI, where there is none
    pytest.mark.skipif(find_rethinkdb() is None, reason="no `rethinkdb` program on PATH"),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _tls_of(certificate: Certificate) -> Sequence[str]:
    return (
        *("--driver-tls-key", str(certificate.key)),
        *("--driver-tls-cert", str(certificate.cert)),
    )


@pytest.fixture(scope="module")
def source(certificates: Certificates) -> Iterator[RealRethinkDB]:
    """A RethinkDB whose one port for drivers speaks TLS and nothing else."""
    with RealRethinkDB(options=tuple(_tls_of(certificates.server))) as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere(certificates: Certificates) -> Iterator[RealRethinkDB]:
    """A RethinkDB with a good certificate of another host."""
    with RealRethinkDB(options=tuple(_tls_of(certificates.elsewhere))) as server:
        yield server


@pytest.fixture(scope="module")
def broker(certificates: Certificates) -> Iterator[PrivateRabbitMQ]:
    with PrivateRabbitMQ(tls=certificates.of_server()) as node:
        yield node


@pytest.fixture
def driver(source: RealRethinkDB, certificates: Certificates) -> Iterator[Any]:
    options = {"ssl": {"ca_certs": str(certificates.ca.cert)}, "host": "localhost"}
    with r.connect(port=source.port, **options) as connection:
        yield connection


@pytest.fixture
def name(driver: Any) -> TableName:
    return new_table(driver)


@pytest.fixture
def encrypted(
    source: RealRethinkDB,
    broker: PrivateRabbitMQ,
    certificates: Certificates,
    name: TableName,
    tmp_path: Path,
) -> Iterator[ReplicatorProcess]:
    """A replicator with TLS on both sides and a virtual host of its own, not started yet."""
    virtual_host = f"v{uuid.uuid4().hex[:12]}"
    broker.add_vhost(virtual_host)
    process = ReplicatorProcess(
        tmp_path,
        {
            "TABLES": str(name),
            "RETHINKDB__URL": f"rethinkdb://admin@localhost:{source.port}",
            "RETHINKDB__TLS_CA_FILE": str(certificates.ca.cert),
            "RABBITMQ__URL": broker.amqps_url.replace("%2F", virtual_host),
            "RABBITMQ__TLS_CA_FILE": str(certificates.ca.cert),
        },
    )
    yield process
    process.close()


def _virtual_host(replicator: ReplicatorProcess) -> str:
    return replicator.settings["RABBITMQ__URL"].rpartition("/")[2]


def _encryption(broker: PrivateRabbitMQ, replicator: ReplicatorProcess) -> set[str]:
    """Return whether the replicator's connections to its virtual host are encrypted.

    Not how many there are: RabbitMQ can list the one of `check` for a while after its end.
    """
    lines = broker.ctl("list_connections", "vhost", "ssl", "client_properties").splitlines()
    fields = [line.split("\t") for line in lines]
    host, name = _virtual_host(replicator), '{"connection_name","replicator"}'
    return {ssl for vhost, ssl, properties in fields if vhost == host and name in properties}


def _check(replicator: ReplicatorProcess, part: str) -> tuple[int, str]:
    """Return the status of the preflight, and what it says of the one part that is wrong."""
    done = replicator.run("check", "--json")
    assert "Traceback" not in done.stderr
    (wrong,) = [line for line in map(json.loads, done.stdout.splitlines()) if not line["ok"]]
    assert wrong["part"] == part
    return done.returncode, f"{wrong['message']} {wrong['hint']}"


def _refusal(replicator: ReplicatorProcess) -> str:
    """Return what the service says before it ends with status 2."""
    done = replicator.run("run")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_document_gets_through_with_tls_on_both_sides(
    encrypted: ReplicatorProcess, broker: PrivateRabbitMQ, driver: Any, name: TableName
) -> None:
    table = r.db(name.database).table(name.table)
    with Consumer(broker.url_of(_virtual_host(encrypted))) as consumer:
        assert encrypted.run("check").returncode == 0
        encrypted.start_and_wait()
        table.insert({"id": 1, "n": 1}).run(driver)
        table.get(1).update({"n": 2}).run(driver)
        (created, updated) = consumer.wait_for_count(2)
        assert _encryption(broker, encrypted) == {"true"}
        connections = broker.ctl("list_connections", "vhost", "ssl", "ssl_protocol")
    assert created.new_val == {"id": 1, "n": 1}
    assert updated.new_val == {"id": 1, "n": 2}
    assert "tlsv1." in connections
    assert encrypted.terminate() == 0


def test_a_certificate_of_another_ca_is_refused_by_rethinkdb_s_side(
    encrypted: ReplicatorProcess, certificates: Certificates
) -> None:
    encrypted.settings["RETHINKDB__TLS_CA_FILE"] = str(certificates.other_ca.cert)

    status, said = _check(encrypted, "rethinkdb")

    assert status == 2
    assert "has a certificate that cannot be trusted" in said
    assert "rethinkdb.tls_ca_file" in said
    assert "has a certificate that cannot be trusted" in _refusal(encrypted)


def test_a_certificate_of_another_ca_is_refused_by_rabbitmq_s_side(
    encrypted: ReplicatorProcess, certificates: Certificates
) -> None:
    encrypted.settings["RABBITMQ__TLS_CA_FILE"] = str(certificates.other_ca.cert)

    status, said = _check(encrypted, "rabbitmq")

    assert status == 2
    assert "has a certificate that cannot be trusted" in said
    assert "rabbitmq.tls_ca_file" in said
    assert "has a certificate that cannot be trusted" in _refusal(encrypted)


def test_the_system_s_cas_do_not_know_rabbitmq_s_certificate(encrypted: ReplicatorProcess) -> None:
    del encrypted.settings["RABBITMQ__TLS_CA_FILE"]

    status, said = _check(encrypted, "rabbitmq")

    assert status == 2
    assert "has a certificate that cannot be trusted" in said


def test_a_certificate_of_another_host_is_refused_by_rethinkdb_s_side(
    encrypted: ReplicatorProcess, elsewhere: RealRethinkDB
) -> None:
    encrypted.settings["RETHINKDB__URL"] = f"rethinkdb://admin@localhost:{elsewhere.port}"

    status, said = _check(encrypted, "rethinkdb")

    assert status == 2
    assert "has a certificate that cannot be trusted" in said
    assert "localhost" in said
    assert "has a certificate that cannot be trusted" in _refusal(encrypted)


def test_rethinkdb_without_tls_at_a_port_for_it_is_told(encrypted: ReplicatorProcess) -> None:
    del encrypted.settings["RETHINKDB__TLS_CA_FILE"]

    status, said = _check(encrypted, "rethinkdb")

    assert status == 1
    assert "if the port speaks TLS, use rethinkdb.tls_ca_file" in said


def test_rabbitmq_without_tls_at_a_port_for_it_is_told(encrypted: ReplicatorProcess) -> None:
    del encrypted.settings["RABBITMQ__TLS_CA_FILE"]
    url = encrypted.settings["RABBITMQ__URL"]
    encrypted.settings["RABBITMQ__URL"] = url.replace("amqps://", "amqp://")

    status, said = _check(encrypted, "rabbitmq")

    assert status == 1
    assert "it speaks TLS: use amqps://" in said


def test_rethinkdb_with_tls_at_a_port_without_is_told(encrypted: ReplicatorProcess) -> None:
    with RealRethinkDB() as plain:
        encrypted.settings["RETHINKDB__URL"] = f"rethinkdb://admin@localhost:{plain.port}"
        status, said = _check(encrypted, "rethinkdb")

    assert status == 1
    assert "the port does not speak TLS" in said


def test_rabbitmq_with_tls_at_a_port_without_is_told(
    encrypted: ReplicatorProcess, broker: PrivateRabbitMQ
) -> None:
    plain = broker.url_of(_virtual_host(encrypted)).replace("amqp://", "amqps://")
    encrypted.settings["RABBITMQ__URL"] = plain.replace("127.0.0.1", "localhost")

    status, said = _check(encrypted, "rabbitmq")

    assert status == 1
    assert "it speaks AMQP without TLS: use amqp://" in said


def test_a_running_service_stays_with_tls_after_rethinkdb_was_away(
    encrypted: ReplicatorProcess, source: RealRethinkDB, broker: PrivateRabbitMQ, name: TableName
) -> None:
    with Consumer(broker.url_of(_virtual_host(encrypted))) as consumer:
        encrypted.start_and_wait()
        source.restart()
        wait_until(lambda: encrypted.metric("replicator_reconnects_total", peer="rethinkdb"), 60)
        encrypted.wait_until_ready()
        ca = encrypted.settings["RETHINKDB__TLS_CA_FILE"]
        with r.connect("localhost", source.port, ssl={"ca_certs": ca}) as connection:
            r.db(name.database).table(name.table).insert({"id": 2}).run(connection)
        assert consumer.wait_for_count(1)[0].new_val == {"id": 2}
