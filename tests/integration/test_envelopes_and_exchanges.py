"""Envelopes and exchanges of tables, through a running service and a real RabbitMQ."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pika
import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_structured_event
from rethinkdb import r

from tests.support.debezium import SCHEMA
from tests.support.replicator import ReplicatorProcess, last_words
from tests.support.wait import wait_until

Took = tuple[str, pika.BasicProperties, bytes]


class Queue:
    """A queue bound to everything of an exchange; messages are read one by one."""

    def __init__(self, connection: pika.BlockingConnection, exchange: str) -> None:
        self._channel = connection.channel()
        self._channel.exchange_declare(exchange, "topic", durable=True)
        self._name = str(self._channel.queue_declare("", exclusive=True).method.queue)
        self._channel.queue_bind(self._name, exchange, "#")
        self.messages: list[Took] = []

    def read(self, count: int) -> list[Took]:
        """Return all messages so far, when there are so many."""

        def enough() -> bool:
            method, properties, body = self._channel.basic_get(self._name, auto_ack=True)
            if method is not None and properties is not None and body is not None:
                self.messages.append((str(method.routing_key), properties, body))
            return len(self.messages) >= count

        wait_until(enough, 40, f"{count} messages")
        return self.messages


@pytest.fixture
def queue_on(vhost: str) -> Iterator[Callable[[str], Queue]]:
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        yield lambda exchange: Queue(connection, exchange)


@pytest.fixture
def configured(
    replicator: ReplicatorProcess, database: str, tmp_path: Path
) -> Callable[[str], ReplicatorProcess]:
    """Gives the replicator options for the test's table."""

    def configure(options: str) -> ReplicatorProcess:
        path = tmp_path / "replicator.toml"
        path.write_text(f'[[tables]]\nname = "{database}.mytable"\n{options}\n')
        replicator.settings["CONFIG"] = str(path)
        return replicator

    return configure


def test_cloud_events_are_read_by_the_official_package(
    configured: Callable[[str], ReplicatorProcess],
    queue_on: Callable[[str], Queue],
    connection: Any,
    database: str,
) -> None:
    replicator = configured('envelope = "cloudevents"')
    queue = queue_on("rethinkdb")
    table = r.db(database).table("mytable")
    table.insert({"id": 1, "at": r.epoch_time(1.5)}).run(connection)
    replicator.start_and_wait()
    table.get(1).update({"n": 2}).run(connection)
    table.get(1).delete().run(connection)

    events = []
    for _, properties, body in queue.read(3):
        assert properties.content_type == "application/cloudevents+json"
        event = from_structured_event(RabbitMQMessage({}, properties.content_type, body))
        assert event.get_id() == properties.message_id
        assert event.get_source() == f"/rethinkdb/{database}/mytable"
        assert event.get_subject() == "1"
        events.append(event)
    assert [event.get_type().rpartition(".")[2] for event in events] == [
        *("create", "update", "delete")
    ]
    assert [event.get_extension("origin") for event in events] == ["snapshot", "feed", "feed"]
    stored = {"id": 1, "at": {"$reql_type$": "TIME", "epoch_time": 1.5, "timezone": "+00:00"}}
    assert [event.get_data() for event in events] == [
        {"old_val": None, "new_val": stored},
        {"old_val": stored, "new_val": {**stored, "n": 2}},
        {"old_val": {**stored, "n": 2}, "new_val": None},
    ]


def test_debezium_s_events_are_as_documented_also_of_a_resync(
    configured: Callable[[str], ReplicatorProcess],
    queue_on: Callable[[str], Queue],
    connection: Any,
    database: str,
) -> None:
    replicator = configured('envelope = "debezium"')
    queue = queue_on("rethinkdb")
    table = r.db(database).table("mytable")
    table.insert({"id": "a"}).run(connection)
    replicator.start_and_wait()
    table.insert({"id": "b"}).run(connection)
    queue.read(2)
    assert replicator.terminate() == 0
    table.get("a").delete().run(connection)
    replicator.start_and_wait()

    took = queue.read(3)
    assert {properties.content_type for _, properties, _ in took} == {"application/json"}
    events = [json.loads(body) for *_, body in took]
    for event in events:
        jsonschema.validate(event, SCHEMA)
    assert [(e["op"], e["source"]["snapshot"], e["source"]["origin"]) for e in events] == [
        ("r", "true", "snapshot"),
        ("c", "false", "feed"),
        ("d", "false", "resync"),
    ]
    assert [(e["before"], e["after"]) for e in events] == [
        (None, {"id": "a"}),
        (None, {"id": "b"}),
        ({"id": "a"}, None),
    ]
    assert {e["source"]["db"] for e in events} == {database}


def test_what_was_captured_before_a_changed_envelope_keeps_its_form(
    configured: Callable[[str], ReplicatorProcess],
    queue_on: Callable[[str], Queue],
    connection: Any,
    database: str,
) -> None:
    replicator = configured('envelope = "cloudevents"')
    url = replicator.settings["RABBITMQ__URL"]
    replicator.settings["RABBITMQ__URL"] = "amqp://127.0.0.1:1"  # nobody takes it yet
    r.db(database).table("mytable").insert({"id": 1}).run(connection)
    replicator.start()
    wait_until(
        lambda: (replicator.get("status")[1] or {"outbox": {}})["outbox"].get("pending") == 1,
        40,
        "the entry",
    )
    assert replicator.terminate() == 0

    configured('envelope = "change"')
    replicator.settings["RABBITMQ__URL"] = url
    queue = queue_on("rethinkdb")
    replicator.start_and_wait()
    r.db(database).table("mytable").insert({"id": 2}).run(connection)

    (_, first, event), (_, second, change) = queue.read(2)
    assert first.content_type == "application/cloudevents+json"
    assert json.loads(event)["data"]["new_val"] == {"id": 1}
    assert second.content_type == "application/json"
    assert json.loads(change) == {"old_val": None, "new_val": {"id": 2}}


def test_a_table_s_messages_go_to_its_own_exchange(
    configured: Callable[[str], ReplicatorProcess],
    queue_on: Callable[[str], Queue],
    connection: Any,
    database: str,
    tmp_path: Path,
) -> None:
    r.db(database).table_create("other").run(connection)
    r.db(database).table("other").wait().run(connection)
    replicator = configured('exchange = "mine"')
    path = tmp_path / "replicator.toml"
    path.write_text(path.read_text() + f'[[tables]]\nname = "{database}.other"\n')
    del replicator.settings["TABLES"]
    replicator.start_and_wait()  # declares both
    mine, common = queue_on("mine"), queue_on("rethinkdb")
    r.db(database).table("mytable").insert({"id": 1}).run(connection)
    r.db(database).table("other").insert({"id": 2}).run(connection)

    assert [key for key, *_ in mine.read(1)] == ["mytable.create"]
    assert [key for key, *_ in common.read(1)] == ["other.create"]
    done = replicator.run("check", "--json")
    parts = {each["part"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert parts["exchange mine"]["ok"]
    assert "takes messages" in parts["exchange mine"]["message"]


def test_another_exchange_of_that_name_is_refused_with_the_setting_to_change(
    configured: Callable[[str], ReplicatorProcess], vhost: str
) -> None:
    replicator = configured('exchange = "mine"')
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        connection.channel().exchange_declare("mine", "fanout", durable=True)

    ran = replicator.run("run")
    checked = replicator.run("check", "--json")

    assert ran.returncode == checked.returncode == 2
    error, hint = last_words(ran.stderr)
    assert "exchange 'mine' exists and is another" in error
    assert hint.startswith("hint: set tables[].exchange")
    assert "Traceback" not in ran.stderr
    wrong = [e for e in map(json.loads, checked.stdout.splitlines()) if not e["ok"]]
    assert [each["part"] for each in wrong] == ["exchange mine"]
    assert wrong[0]["hint"].startswith("set tables[].exchange")


def test_what_is_excluded_is_in_no_message_and_in_no_file_also_after_it_was_sent_once(
    configured: Callable[[str], ReplicatorProcess],
    queue_on: Callable[[str], Queue],
    connection: Any,
    database: str,
    tmp_path: Path,
) -> None:
    # Given documents that were published whole, and kept
    replicator = configured("keep_documents = true")
    queue = queue_on("rethinkdb")
    table = r.db(database).table("mytable")
    table.insert([{"id": 1, "card": {"number": 4711, "x": 1}}, {"id": 2}]).run(connection)
    replicator.start_and_wait()
    queue.read(2)
    assert replicator.terminate() == 0
    # When a field is excluded, and documents change before and after the next start
    configured('keep_documents = true\nexclude_fields = ["card.number"]')
    table.insert({"id": 3, "card": [{"number": 4711}, None]}).run(connection)
    replicator.start_and_wait()
    table.get(1).update({"card": {"number": 47110}}).run(connection)  # not to be seen
    table.get(1).update({"card": {"x": 2}}).run(connection)
    table.get(3).delete().run(connection)
    messages = queue.read(6)[2:]
    shown = replicator.run("outbox", "list", "--json").stdout + replicator.log()
    assert replicator.terminate() == 0

    # Then what looked different without it is an update, and it is nowhere
    said = [(key, json.loads(body)) for key, _, body in messages]
    assert sorted(said, key=repr) == [
        ("mytable.create", {"old_val": None, "new_val": {"id": 3, "card": [{}, None]}}),
        ("mytable.delete", {"old_val": {"id": 3, "card": [{}, None]}, "new_val": None}),
        ("mytable.update", {"old_val": None, "new_val": {"id": 1, "card": {"x": 1}}}),
        (
            "mytable.update",
            {"old_val": {"id": 1, "card": {"x": 1}}, "new_val": {"id": 1, "card": {"x": 2}}},
        ),
    ]
    files = [path.read_bytes() for path in tmp_path.rglob("*.db*") if path.is_file()]
    assert files
    assert not any(b"4711" in content for content in [*files, shown.encode()])
