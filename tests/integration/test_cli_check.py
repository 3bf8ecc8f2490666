"""The preflight on real servers: what it finds, and that it changes nothing."""

import json
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator.outbox.sqlite.lock import exclusively
from tests.support.command import Command, Done, command_line
from tests.support.outbox import outbox
from tests.support.ports import free_port
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    rethinkdb: RethinkServer,
    vhost: str,
    database: str,
) -> Iterator[Command]:
    monkeypatch.setenv("REPLICATOR_TABLES", f"{database}.mytable")
    monkeypatch.setenv("REPLICATOR_RETHINKDB__URL", rethinkdb.url)
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", vhost)
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")  # some other replicator's, by default
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def channel(vhost: str) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        yield connection.channel()


def wrong(done: Done) -> dict[str, str]:
    """Return the messages of what is wrong, by part."""
    return {line["part"]: line["message"] for line in done.objects if not line["ok"]}


def message(done: Done, part: str) -> str:
    (found,) = [line["message"] for line in done.objects if line["part"] == part]
    return str(found)


def test_all_is_well_before_the_first_start_and_nothing_is_made(
    cli: Command, channel: Any, tmp_path: Path
) -> None:
    done = cli("check", "--json")

    assert (done.status, wrong(done)) == (0, {})
    assert "does not exist yet" in message(done, "exchange rethinkdb")
    assert "does not exist yet" in message(done, "outbox")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no exchange"):
        channel.exchange_declare("rethinkdb", passive=True)


def test_people_get_one_line_for_each_part(cli: Command) -> None:
    lines = cli("check").out.splitlines()

    assert len(lines) == 9
    assert all(line.startswith("ok ") for line in lines)


def test_what_exists_is_looked_at_and_no_message_is_published(
    cli: Command, channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.exchange_declare("rethinkdb", "topic", durable=True)
    queue = channel.queue_declare("all", durable=True).method.queue
    channel.queue_bind(queue, "rethinkdb", "#")
    monkeypatch.setenv(
        "REPLICATOR_RABBITMQ__QUEUES",
        '[{"name": "all", "type": "classic"}, {"name": "new"}]',
    )
    with outbox(tmp_path) as box, exclusively(box.path):
        done = cli("check", "--json")

    assert (done.status, wrong(done)) == (0, {})
    assert "is a topic exchange" in message(done, "exchange rethinkdb")
    assert "is a classic queue" in message(done, "queue all")
    assert "does not exist yet" in message(done, "queue new")
    assert "in use by process" in message(done, "outbox")
    assert channel.queue_declare("all", passive=True).method.message_count == 0


def test_an_exchange_and_a_queue_of_another_kind_are_wrong(
    cli: Command, channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.exchange_declare("rethinkdb", "fanout", durable=True)
    channel.queue_declare("q", durable=True)
    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", '[{"name": "q", "type": "quorum"}]')

    done = cli("check", "--json")

    assert done.status == 2
    assert set(wrong(done)) == {"exchange rethinkdb", "queue q"}
    assert "is another" in wrong(done)["exchange rethinkdb"]


def test_a_user_who_may_not_write_or_configure_is_told(
    cli: Command, channel: Any, rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    channel.exchange_declare("rethinkdb", "topic", durable=True)
    name = f"u{uuid.uuid4().hex[:8]}"
    virtual_host = vhost.rpartition("/")[2]
    rabbitmq.ctl("add_user", name, "pw")
    url = vhost.replace("guest:guest", f"{name}:pw")
    assert set(wrong(cli("check", "--json", "--rabbitmq", url))) == {"rabbitmq"}

    rabbitmq.ctl("set_permissions", "-p", virtual_host, name, "", "", ".*")
    done = cli("check", "--json", "--rabbitmq", url)
    assert "gives no permission" in wrong(done)["exchange rethinkdb"]

    rabbitmq.ctl("set_permissions", "-p", virtual_host, name, "", ".*", ".*")
    done = cli("check", "--json", "--rabbitmq", url)
    assert done.status == 0
    assert "cannot be seen" in message(done, "exchange rethinkdb")


def test_servers_that_cannot_be_reached_are_no_permanent_error(cli: Command) -> None:
    done = cli(
        *("check", "--json", "--rethinkdb", f"rethinkdb://127.0.0.1:{free_port()}"),
        *("--rabbitmq", f"amqp://127.0.0.1:{free_port()}"),
    )

    assert done.status == 1
    assert set(wrong(done)) == {"rethinkdb", "rabbitmq"}


def test_wrong_passwords_are_permanent_errors_and_not_shown(
    cli: Command, rethinkdb: RethinkServer, vhost: str
) -> None:
    done = cli(
        *("check", "--rethinkdb", f"rethinkdb://admin:hush@{rethinkdb.host}:{rethinkdb.port}"),
        *("--rabbitmq", vhost.replace("guest:guest", "guest:hush")),
    )

    assert done.status == 2
    assert done.out.count("wrong ") == 2
    assert "hush" not in done.out + done.err


def test_tables_are_looked_at_one_by_one(
    cli: Command, connection: Any, database: str, rethinkdb: RethinkServer, tmp_path: Path
) -> None:
    user = f"u{uuid.uuid4().hex[:8]}"
    r.db("rethinkdb").table("users").insert({"id": user, "password": "pw"}).run(connection)
    r.db(database).table_create("hidden").run(connection)
    r.db(database).table("mytable").grant(user, {"read": True}).run(connection)
    config = tmp_path / "x.toml"
    config.write_text(f'[[tables]]\nname = "{database}.mytable"\nexclude_fields = ["id"]\n')

    done = cli(
        *("check", "--json", "--config", str(config)),
        *("--rethinkdb", f"rethinkdb://{user}:pw@{rethinkdb.host}:{rethinkdb.port}"),
        *("--table", f"{database}.mytable", "--table", f"{database}.hidden"),
        *("--table", f"{database}.missing"),
    )

    assert done.status == 2
    said = wrong(done)
    assert "the table's primary key" in said[f"table {database}.mytable"]
    assert "no permission" in said[f"table {database}.hidden"]
    assert f"table {database}.missing" in said


def test_an_outbox_that_cannot_be_used_is_wrong(cli: Command, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    connection = sqlite3.connect(theirs)
    connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()
    (tmp_path / "text.db").write_text("not a database")
    (tmp_path / "empty.db").touch()

    for name, words in (
        ("theirs.db", "is not an outbox"),
        ("text.db", "is not an SQLite database"),
        (".", "is a directory"),
        ("text.db/x.db", "cannot be written"),
    ):
        done = cli("check", "--json", "--outbox", f"sqlite:///{tmp_path / name}")
        assert done.status == 2
        assert words in wrong(done)["outbox"]
    done = cli("check", "--json", "--outbox", f"sqlite:///{tmp_path / 'empty.db'}")
    assert "migrates it to" in message(done, "outbox")
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_without_tables_the_rest_is_looked_at_all_the_same(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPLICATOR_TABLES")

    done = cli("check", "--json")

    assert done.status == 2
    assert set(wrong(done)) == {"settings"}
    assert [line["part"] for line in done.objects][1:3] == ["rethinkdb", "rabbitmq"]


def hint_of_bindings(done: Done) -> Any:
    (found,) = [line["hint"] for line in done.objects if line["part"] == "bindings"]
    return found


def _queues(*bindings: str) -> str:
    return json.dumps([{"name": "q", "type": "classic", "bindings": list(bindings)}])


def test_routing_keys_that_no_queue_of_the_settings_takes_are_told(
    cli: Command, monkeypatch: pytest.MonkeyPatch, channel: Any
) -> None:
    assert "rabbitmq.queues declares no queue" in message(cli("check", "--json"), "bindings")

    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", _queues("*.create", "#.delete"))
    done = cli("check", "--json")
    assert (done.status, wrong(done)) == (0, {})  # it may be meant
    said = message(done, "bindings")
    assert said.startswith(
        "no queue of rabbitmq.queues takes mytable.update, which may be intended"
    )
    assert "this compares the settings only" in said
    assert "on_unroutable" in hint_of_bindings(done)

    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", _queues("mytable.#"))
    done = cli("check", "--json")
    assert "takes every routing key" in message(done, "bindings")
    assert hint_of_bindings(done) is None
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        channel.queue_declare("q", passive=True)  # nothing was made


def test_what_a_running_service_had_returned_is_told(
    replicator: ReplicatorProcess, connection: Any, database: str
) -> None:
    # Given a service whose only queue takes deletes
    replicator.settings["RABBITMQ__QUEUES"] = _queues("*.delete")
    replicator.start_and_wait()
    address = f"the service at {replicator.http} had"
    said = replicator.run("check").stdout
    assert f"{address} no unroutable message" in said
    # When a document is created
    r.db(database).table("mytable").insert({"id": 1}).run(connection)
    wait_until(lambda: replicator.metric("replicator_unroutable_total") == 1, 30, "a return")
    # Then the preflight has seen it, and says what to do
    done = replicator.run("check")
    assert done.returncode == 0
    assert f"{address} unroutable messages: {database}.mytable 1 — " in done.stdout
    assert "rabbitmqctl list_bindings" in done.stdout


def test_a_queue_with_other_arguments_and_an_exchange_of_another_type_are_drift(
    cli: Command, monkeypatch: pytest.MonkeyPatch, channel: Any
) -> None:
    monkeypatch.setenv("REPLICATOR_RABBITMQ__QUEUES", _queues("#"))
    channel.exchange_declare("rethinkdb", "fanout", durable=True)
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})

    done = cli("check", "--json")

    assert done.status == 2
    assert set(wrong(done)) == {"exchange rethinkdb", "queue q"}


def test_the_tables_of_a_whole_database_are_found_and_looked_at(
    cli: Command, connection: Any, database: str
) -> None:
    r.db(database).table_create("other", primary_key="key").run(connection)
    r.db(database).table("other").wait().run(connection)

    done = cli("check", "--json", "--table", f"{database}.*", "--table", f"{database}.mytable")

    assert (done.status, wrong(done)) == (0, {})
    assert message(done, f"tables {database}.*") == "2 now: mytable, other"
    assert "primary key is 'id'" in message(done, f"table {database}.mytable")
    assert "primary key is 'key'" in message(done, f"table {database}.other")


def test_tables_that_share_a_routing_key_are_told(cli: Command, database: str) -> None:
    done = cli("check", "--json", "--table", "eu.*", "--table", f"{database}.mytable")

    assert message(done, "routing keys") == (
        f"{database}.mytable, eu.* can share the key mytable.update, which may be intended"
    )
    assert "routing keys" not in cli("check", "--json").out


def test_the_address_of_the_page_is_tried_and_free_again(cli: Command) -> None:
    address = f"127.0.0.1:{free_port()}"

    done = cli("check", "--json", "--http", address)

    assert done.status == 0
    assert message(done, "http") == f"{address} can be used"
    host, _, port = address.partition(":")
    socket.create_server((host, int(port))).close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:{used}", "Address already in use"),
        ("192.0.2.1:9464", "Cannot assign requested address"),
        ("no-such-host.invalid:9464", "Name or service not known"),
    ],
)
def test_an_address_of_the_page_that_cannot_be_used_is_wrong(
    cli: Command, address: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = cli("check", "--json", "--http", address.format(used=other.getsockname()[1]))

    assert done.status == 2
    assert set(wrong(done)) == {"http"}
    assert wrong(done)["http"].endswith(f"cannot be used: {reason}")


def test_the_address_in_use_by_the_service_itself_is_well_and_by_another_is_not(
    replicator: ReplicatorProcess, tmp_path: Path
) -> None:
    replicator.start_and_wait()

    done = replicator.run("check")
    assert done.returncode == 0, done.stdout
    assert f"http: {replicator.http} is in use by the service of this outbox" in done.stdout
    done = replicator.run("check", "--outbox", f"sqlite:///{tmp_path / 'other.db'}")
    assert done.returncode == 2
    assert f"{replicator.http} cannot be used: Address already in use" in done.stdout
