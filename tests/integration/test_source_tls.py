"""A RethinkDB that speaks TLS only, and one that does not."""

import ssl
from pathlib import Path

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from rethinkdb import r

from replicator.domain.model import TableName
from replicator.errors import SourceRefused
from replicator.source.connection import Server
from replicator.source.discovery import open_table_config
from replicator.source.watchdog import Watch
from tests.support.reading import RunningReader, new_table, server_of
from tests.support.servers import RethinkServer
from tests.support.tls import Certificates, make_certificates
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _tls_server(certificates: Certificates, *, elsewhere: bool = False) -> EmbeddedRethinkDB:
    shown = certificates.elsewhere if elsewhere else certificates.server
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert, shown.key)
    return EmbeddedRethinkDB(tls=context)


def _reader(server: EmbeddedRethinkDB, ca: Path, name: TableName) -> RunningReader:
    where = server_of(RethinkServer(server.url), hosts=[("localhost", server.port)])
    return RunningReader(where._replace(tls_ca_file=ca), name)


def test_the_right_ca_is_trusted(certificates: Certificates) -> None:
    with _tls_server(certificates) as server:
        options = {"ssl": {"ca_certs": str(certificates.ca.cert)}, "host": "localhost"}
        with r.connect(port=server.port, **options) as driver:
            name = new_table(driver)
            r.db(name.database).table(name.table).insert({"id": 1}).run(driver)
        with _reader(server, certificates.ca.cert, name) as reader:
            reader.wait_until_ready()
            assert reader.documents() == {"1": {"id": 1}}
            # The ping goes over TLS as well, and the socket's end is noticed.
            complete_at = reader.reader.complete_at
            wait_until(lambda: reader.reader.complete_at > complete_at, 10, "a ping")
            assert server.drop_connections() > 0
            reader.wait_until_ready(2)


def test_the_list_of_tables_is_followed_over_tls(certificates: Certificates) -> None:
    """It is polled, which the driver by itself takes for the end of a connection with TLS."""
    with _tls_server(certificates) as server:
        where = Server([("localhost", server.port)], "admin", "", certificates.ca.cert)
        with open_table_config(where, Watch()) as tables:
            assert not tables.changed(0.0)
            assert not tables.changed(0.1)
            assert not tables.changed(0.0)


def test_another_ca_is_refused(certificates: Certificates) -> None:
    with (
        _tls_server(certificates) as server,
        _reader(server, certificates.other_ca.cert, TableName("a", "b")) as reader,
    ):
        error = reader.wait_for_refusal()
    assert isinstance(error, SourceRefused)
    assert "certificate that cannot be trusted" in str(error)
    assert "tls_ca_file" in str(error.hint)


def test_a_certificate_for_another_host_is_refused(certificates: Certificates) -> None:
    with (
        _tls_server(certificates, elsewhere=True) as server,
        _reader(server, certificates.ca.cert, TableName("a", "b")) as reader,
    ):
        error = reader.wait_for_refusal()
    assert isinstance(error, SourceRefused)
    assert "localhost" in str(error)


def test_tls_to_a_server_without_it_is_told_and_tried_again(
    certificates: Certificates,
) -> None:
    with (
        EmbeddedRethinkDB() as server,
        _reader(server, certificates.ca.cert, TableName("a", "b")) as reader,
    ):
        closed = reader.wait_until_closed()
    assert "cannot be reached" in closed.error
