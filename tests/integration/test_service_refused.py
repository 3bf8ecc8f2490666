"""What a user can get wrong at start: one clear line, what to do, exit status 2."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pika
import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.support.replicator import ReplicatorProcess, last_words
from tests.support.servers import RethinkServer

MARKER = "marker-of-a-password"


def refusal_of(replicator: ReplicatorProcess) -> str:
    """Start it, wait for its end, and return what it told the user: in JSON, as its log is."""
    done = replicator.run("run")
    output = done.stderr + done.stdout
    assert done.returncode == 2, output
    assert "Traceback" not in output
    assert MARKER not in output
    for line in output.splitlines():
        json.loads(line)
    error, hint = last_words(output)
    assert hint.startswith("hint: ")
    return f"{error}\n{hint}"


def rabbitmq_url(vhost: str, *, user: str = "guest", password: str = "guest") -> str:
    return vhost.replace("guest:guest", f"{user}:{password}")


def test_a_second_instance_on_the_same_outbox_is_refused(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()
    told = refusal_of(replicator)
    assert f"in use by another replicator (process {replicator.pid})" in told
    assert replicator.is_ready(), "the first one was disturbed"


def test_a_schema_that_is_too_new_is_refused(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()
    assert replicator.terminate() == 0
    with sqlite3.connect(replicator.outbox) as outbox:
        outbox.execute("update alembic_version set version_num = '9999'")
    outbox.close()
    assert "schema 9999, written by a newer replicator" in refusal_of(replicator)


def test_a_file_that_is_no_database_is_refused_and_kept(replicator: ReplicatorProcess) -> None:
    replicator.outbox.write_text("these are somebody's notes\n" * 100)
    refusal_of(replicator)
    assert replicator.outbox.read_text().startswith("these are somebody's notes")


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody else listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    yield f"127.0.0.1:{server.server_port}"
    server.server_close()


def test_an_http_port_in_use_is_refused(replicator: ReplicatorProcess, taken: str) -> None:
    replicator.settings["HTTP__LISTEN"] = taken
    told = refusal_of(replicator)
    assert f"http.listen: {taken} cannot be used" in told


def test_an_unknown_table_is_refused(replicator: ReplicatorProcess, database: str) -> None:
    replicator.settings["TABLES"] = f"{database}.nothing"
    told = refusal_of(replicator)
    assert f"there is no table {database}.nothing" in told


def test_one_unknown_table_among_others_is_refused(
    replicator: ReplicatorProcess, database: str
) -> None:
    replicator.settings["TABLES"] += f",{database}.nothing"
    assert f"there is no table {database}.nothing" in refusal_of(replicator)


def test_a_wrong_password_of_rethinkdb_is_refused(
    replicator: ReplicatorProcess, rethinkdb: RethinkServer
) -> None:
    replicator.settings["RETHINKDB__URL"] = (
        f"rethinkdb://admin:{MARKER}@{rethinkdb.host}:{rethinkdb.port}"
    )
    told = refusal_of(replicator)
    assert "refuses user 'admin'" in told
    assert "rethinkdb.password_file" in told


def test_no_permission_to_read_the_table_is_refused(
    replicator: ReplicatorProcess, rethinkdb: RethinkServer, connection: Any, database: str
) -> None:
    user = f"u{uuid.uuid4().hex[:12]}"
    users = r.db("rethinkdb").table("users")
    users.insert({"id": user, "password": "secret"}).run(connection)
    try:
        replicator.settings["RETHINKDB__URL"] = (
            f"rethinkdb://{user}:secret@{rethinkdb.host}:{rethinkdb.port}"
        )
        told = refusal_of(replicator)
    finally:
        users.get(user).delete().run(connection)
    assert f"no permission to read {database}.mytable" in told
    assert "grant(" in told


def test_a_wrong_password_of_rabbitmq_is_refused(replicator: ReplicatorProcess, vhost: str) -> None:
    replicator.settings["RABBITMQ__URL"] = rabbitmq_url(vhost, password=MARKER)
    told = refusal_of(replicator)
    assert "refuses the user or password" in told
    assert "rabbitmq.password_file" in told


def test_an_exchange_of_another_type_is_refused(replicator: ReplicatorProcess, vhost: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        connection.channel().exchange_declare("rethinkdb", "direct", durable=True)
    assert "exchange 'rethinkdb' exists and is another" in refusal_of(replicator)


def test_no_permission_to_publish_is_refused(
    replicator: ReplicatorProcess, rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    user, virtual_host = f"u{uuid.uuid4().hex[:12]}", vhost.rpartition("/")[2]
    rabbitmq.ctl("add_user", user, "secret")
    try:
        rabbitmq.ctl("set_permissions", "-p", virtual_host, user, ".*", "", ".*")
        replicator.settings["RABBITMQ__URL"] = rabbitmq_url(vhost, user=user, password="secret")
        told = refusal_of(replicator)
    finally:
        rabbitmq.ctl("delete_user", user)
    assert "gives no permission" in told
    assert "docs/permissions.md" in told


def test_a_name_that_makes_too_long_a_routing_key_is_refused(
    replicator: ReplicatorProcess,
) -> None:
    replicator.settings["TABLES"] = f"db.{'t' * 253}"
    refusal = replicator.run("run")
    assert refusal.returncode == 2
    assert "Traceback" not in refusal.stderr
    assert "255" in refusal.stderr
