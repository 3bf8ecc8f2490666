"""Every failure that the preflight can find comes with what to do about it."""

import json
import sqlite3
import ssl
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from replicator_sandbox import EmbeddedRethinkDB
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import errors as reql
from rethinkdb import r

from replicator.source import check as source_check
from tests.support.command import Command, command_line
from tests.support.outbox import outbox
from tests.support.ports import free_port
from tests.support.servers import RethinkServer
from tests.support.tls import Certificates, make_certificates

# The driver leaks the sockets of connections that were refused.
pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")


@dataclass
class Scene:
    """What a case may break; all of it is well before."""

    environment: pytest.MonkeyPatch
    stack: ExitStack
    directory: Path
    rethinkdb: RethinkServer
    driver: Any
    rabbitmq: PrivateRabbitMQ
    vhost: str
    database: str
    certificates: Certificates

    def set(self, key: str, value: str) -> None:
        self.environment.setenv(f"REPLICATOR_{key}", value)

    def channel(self) -> Any:
        connection = pika.BlockingConnection(pika.URLParameters(self.vhost))
        self.stack.callback(connection.close)
        return connection.channel()

    def add_rethinkdb_user(self) -> str:
        """Return the URL of a user who may do nothing."""
        user = f"u{uuid.uuid4().hex[:8]}"
        r.db("rethinkdb").table("users").insert({"id": user, "password": "pw"}).run(self.driver)
        return f"rethinkdb://{user}:pw@{self.rethinkdb.host}:{self.rethinkdb.port}"

    def add_rabbitmq_user(self, *rights: str) -> str:
        """Return the URL of a user with these rights to configure, write and read, or none."""
        user = f"u{uuid.uuid4().hex[:8]}"
        self.rabbitmq.ctl("add_user", user, "pw")
        if rights:
            virtual_host = self.vhost.rpartition("/")[2]
            self.rabbitmq.ctl("set_permissions", "-p", virtual_host, user, *rights)
        return self.vhost.replace("guest:guest", f"{user}:pw")

    def start_tls_rethinkdb(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.server.cert, self.certificates.server.key)
        server = self.stack.enter_context(EmbeddedRethinkDB(tls=context))
        return f"rethinkdb://admin@localhost:{server.port}"

    def outbox_file(self) -> Path:
        with outbox(self.directory) as box:
            self.set("OUTBOX__URL", f"sqlite:///{box.path}")
            return box.path


def rethinkdb_of_no_such_host(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", "rethinkdb://nowhere.invalid")
    return "rethinkdb"


def rethinkdb_refuses_connections(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", f"rethinkdb://127.0.0.1:{free_port()}")
    return "rethinkdb"


def rethinkdb_refuses_the_password(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", scene.add_rethinkdb_user().replace(":pw@", ":wrong@"))
    return "rethinkdb"


def rethinkdb_gives_no_permission(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", scene.add_rethinkdb_user())
    return f"table {scene.database}.mytable"


def rethinkdb_does_not_let_tables_be_listed(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", scene.add_rethinkdb_user())
    scene.set("TABLES", f"{scene.database}.*")
    return f"tables {scene.database}.*"


def rethinkdb_shows_a_certificate_of_somebody_else(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", scene.start_tls_rethinkdb())
    scene.set("RETHINKDB__TLS_CA_FILE", str(scene.certificates.other_ca.cert))
    return "rethinkdb"


def rethinkdb_does_not_speak_tls(scene: Scene) -> str:
    scene.set("RETHINKDB__TLS_CA_FILE", str(scene.certificates.ca.cert))
    return "rethinkdb"


def rethinkdb_speaks_tls_only(scene: Scene) -> str:
    scene.set("RETHINKDB__URL", scene.start_tls_rethinkdb())
    return "rethinkdb"


def the_ca_of_rethinkdb_is_no_certificate(scene: Scene) -> str:
    scene.set("RETHINKDB__TLS_CA_FILE", __file__)
    return "rethinkdb"


def a_table_is_missing(scene: Scene) -> str:
    scene.set("TABLES", f"{scene.database}.missing")
    return f"table {scene.database}.missing"


def a_database_is_missing(scene: Scene) -> str:
    scene.set("TABLES", "missing.mytable")
    return "table missing.mytable"


def a_table_is_not_ready(scene: Scene) -> str:
    # The words of a real server whose only replica of a shard is away.
    away = reql.ReqlOpFailedError(
        "Cannot perform read: primary replica for shard [-inf, +inf) not available", {}, []
    )
    _let_queries_fail(scene, away)
    return f"table {scene.database}.mytable"


def the_link_to_rethinkdb_is_lost(scene: Scene) -> str:
    _let_queries_fail(scene, reql.ReqlDriverError("Connection is closed."))
    return f"table {scene.database}.mytable"


def _let_queries_fail(scene: Scene, err: reql.ReqlError) -> None:
    class Failing:
        def __getattr__(self, _: str) -> Callable[..., "Failing"]:
            return lambda *_: self

        def run(self, _: Any) -> None:
            raise err

    scene.environment.setattr(source_check, "r", Failing())


def rabbitmq_of_no_such_host(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", "amqp://nowhere.invalid")
    return "rabbitmq"


def rabbitmq_refuses_connections(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", f"amqp://127.0.0.1:{free_port()}")
    return "rabbitmq"


def rabbitmq_refuses_the_password(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", scene.vhost.replace("guest:guest", "guest:wrong"))
    return "rabbitmq"


def a_virtual_host_is_unknown(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", scene.rabbitmq.url_of("unknown"))
    return "rabbitmq"


def a_virtual_host_is_not_for_this_user(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", scene.add_rabbitmq_user())
    return "rabbitmq"


def rabbitmq_gives_no_permission(scene: Scene) -> str:
    scene.channel().exchange_declare("rethinkdb", "topic", durable=True)
    scene.set("RABBITMQ__URL", scene.add_rabbitmq_user("", "", ".*"))
    return "exchange rethinkdb"


def rabbitmq_shows_a_certificate_of_somebody_else(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", f"amqps://guest:guest@localhost:{scene.rabbitmq.tls_port}")
    scene.set("RABBITMQ__TLS_CA_FILE", str(scene.certificates.other_ca.cert))
    return "rabbitmq"


def rabbitmq_does_not_speak_tls(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", f"amqps://guest:guest@localhost:{scene.rabbitmq.port}")
    return "rabbitmq"


def rabbitmq_speaks_tls_only(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", f"amqp://guest:guest@localhost:{scene.rabbitmq.tls_port}")
    return "rabbitmq"


def the_ca_of_rabbitmq_is_no_certificate(scene: Scene) -> str:
    scene.set("RABBITMQ__URL", f"amqps://guest:guest@localhost:{scene.rabbitmq.tls_port}")
    scene.set("RABBITMQ__TLS_CA_FILE", __file__)
    return "rabbitmq"


def an_exchange_is_of_another_type(scene: Scene) -> str:
    scene.channel().exchange_declare("rethinkdb", "fanout", durable=True)
    return "exchange rethinkdb"


def a_type_of_exchange_is_unknown(scene: Scene) -> str:
    scene.set("RABBITMQ__EXCHANGE_TYPE", "x-of-a-plugin")
    return "exchange rethinkdb"


def a_queue_has_other_arguments(scene: Scene) -> str:
    scene.channel().queue_declare("q", durable=True, arguments={"x-max-length": 1})
    scene.set("RABBITMQ__QUEUES", json.dumps([{"name": "q", "arguments": {"x-max-length": 2}}]))
    return "queue q"


def a_queue_is_of_another_connection_alone(scene: Scene) -> str:
    scene.channel().queue_declare("q", exclusive=True)
    scene.set("RABBITMQ__QUEUES", json.dumps([{"name": "q", "type": "classic"}]))
    return "queue q"


def an_outbox_is_locked(scene: Scene) -> str:
    connection = sqlite3.connect(scene.outbox_file(), isolation_level=None)
    scene.stack.callback(connection.close)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("CREATE TABLE t (id INTEGER)")
    return "outbox"


def an_outbox_has_a_newer_schema(scene: Scene) -> str:
    connection = sqlite3.connect(scene.outbox_file())
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    return "outbox"


def an_outbox_is_corrupt(scene: Scene) -> str:
    path = scene.outbox_file()
    path.write_bytes(path.read_bytes()[:16] + b"\xff" * 5000)
    return "outbox"


def an_outbox_is_no_database(scene: Scene) -> str:
    path = scene.directory / "text"
    path.write_text("something else altogether")
    scene.set("OUTBOX__URL", f"sqlite:///{path}")
    return "outbox"


def an_outbox_is_a_directory(scene: Scene) -> str:
    scene.set("OUTBOX__URL", f"sqlite:///{scene.directory}")
    return "outbox"


def an_outbox_cannot_be_made(scene: Scene) -> str:
    scene.set("OUTBOX__URL", f"sqlite:///{__file__}/outbox.db")
    return "outbox"


def no_table_is_named(scene: Scene) -> str:
    scene.environment.delenv("REPLICATOR_TABLES")
    return "settings"


def a_setting_is_wrong(scene: Scene) -> str:
    scene.set("RABBITMQ__WINDOW", "wide")
    return "settings"


CASES = (
    rethinkdb_of_no_such_host,
    rethinkdb_refuses_connections,
    rethinkdb_refuses_the_password,
    rethinkdb_gives_no_permission,
    rethinkdb_does_not_let_tables_be_listed,
    rethinkdb_shows_a_certificate_of_somebody_else,
    rethinkdb_does_not_speak_tls,
    rethinkdb_speaks_tls_only,
    the_ca_of_rethinkdb_is_no_certificate,
    a_table_is_missing,
    a_database_is_missing,
    a_table_is_not_ready,
    the_link_to_rethinkdb_is_lost,
    rabbitmq_of_no_such_host,
    rabbitmq_refuses_connections,
    rabbitmq_refuses_the_password,
    a_virtual_host_is_unknown,
    a_virtual_host_is_not_for_this_user,
    rabbitmq_gives_no_permission,
    rabbitmq_shows_a_certificate_of_somebody_else,
    rabbitmq_does_not_speak_tls,
    rabbitmq_speaks_tls_only,
    the_ca_of_rabbitmq_is_no_certificate,
    an_exchange_is_of_another_type,
    a_type_of_exchange_is_unknown,
    a_queue_has_other_arguments,
    a_queue_is_of_another_connection_alone,
    an_outbox_is_locked,
    an_outbox_has_a_newer_schema,
    an_outbox_is_corrupt,
    an_outbox_is_no_database,
    an_outbox_is_a_directory,
    an_outbox_cannot_be_made,
    no_table_is_named,
    a_setting_is_wrong,
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def node(rabbitmq: PrivateRabbitMQ, certificates: Certificates) -> Iterator[PrivateRabbitMQ]:
    del rabbitmq  # skips, or fails in CI, where there is none
    with PrivateRabbitMQ(tls=certificates.of_server()) as started:
        yield started


@pytest.fixture
def scene(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rethinkdb: RethinkServer,
    connection: Any,
    node: PrivateRabbitMQ,
    database: str,
    certificates: Certificates,
) -> Iterator[Scene]:
    vhost = node.add_vhost(f"v{uuid.uuid4().hex[:12]}")
    with ExitStack() as stack:
        made = Scene(
            *(monkeypatch, stack, tmp_path, rethinkdb, connection, node, vhost, database),
            certificates,
        )
        made.set("TABLES", f"{database}.mytable")
        made.set("RETHINKDB__URL", rethinkdb.url)
        made.set("RABBITMQ__URL", vhost)
        made.set("OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
        made.set("HTTP__LISTEN", "off")
        yield made


@pytest.fixture
def cli(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    del scene
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.mark.parametrize("break_it", CASES)
def test_every_failure_comes_with_a_next_step(
    break_it: Callable[[Scene], str], scene: Scene, cli: Command
) -> None:
    part = break_it(scene)

    done = cli("check", "--json")

    assert done.status in {1, 2}, done.out
    failed = {line["part"]: line for line in done.objects if not line["ok"]}
    assert part in failed, done.out
    for line in failed.values():
        assert line["hint"], line
        assert line["hint"] not in line["message"]


def test_all_that_is_broken_here_is_well_before(cli: Command) -> None:
    assert cli("check", "--json").status == 0
