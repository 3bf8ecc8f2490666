"""``database.*``: tables that appear are replicated, and those that are dropped are taken back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from tests.support.consumer import Consumer, Message
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

_SECONDS = 40


@pytest.fixture
def whole(
    rethinkdb: RethinkServer, vhost: str, database: str, tmp_path: Path
) -> Iterator[ReplicatorProcess]:
    """A replicator of the test's whole database, which has the table ``mytable``."""
    process = ReplicatorProcess(
        tmp_path,
        {
            "TABLES": f"{database}.*",
            "RETHINKDB__URL": rethinkdb.url,
            "RABBITMQ__URL": vhost,
        },
    )
    yield process
    process.close()


@pytest.fixture
def consumer(vhost: str) -> Iterator[Consumer]:
    with Consumer(vhost) as made:
        yield made


def create(connection: Any, database: str, table: str, *keys: int) -> None:
    r.db(database).table_create(table).run(connection)
    r.db(database).table(table).wait().run(connection)
    if keys:
        r.db(database).table(table).insert([{"id": key} for key in keys]).run(connection)


def said(consumer: Consumer, table: str) -> list[tuple[str, str, Any]]:
    return [_said(message) for message in consumer.history if message.table == table]


def _said(message: Message) -> tuple[str, str, Any]:
    document = message.old_val if message.new_val is None else message.new_val
    return message.op, message.origin, document["id"]


def feeds(replicator: ReplicatorProcess) -> dict[str, str]:
    """Return the state of each feed as ``feed list`` has it, by the table's name."""
    done = replicator.run("feed", "list", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["table"].partition(".")[2]: row["state"] for row in rows}


def gaps(replicator: ReplicatorProcess) -> list[tuple[str, int, bool]]:
    done = replicator.run("feed", "gaps", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["cause"], row["deleted"], row["to"] is not None) for row in rows]


def test_tables_that_are_there_and_those_created_later_are_replicated(
    whole: ReplicatorProcess, consumer: Consumer, connection: Any, database: str
) -> None:
    r.db(database).table("mytable").insert({"id": 1}).run(connection)
    whole.start_and_wait()
    consumer.wait_for(lambda it: ("create", "snapshot", 1) in said(it, "mytable"), _SECONDS)

    create(connection, database, "later", 2)
    consumer.wait_for(lambda it: 2 in [key for *_, key in said(it, "later")], _SECONDS)
    whole.wait_until_ready()
    r.db(database).table("later").insert({"id": 3}).run(connection)

    consumer.wait_for(lambda it: ("create", "feed", 3) in said(it, "later"), _SECONDS)
    assert [feed["table"] for feed in whole.status()["feeds"]] == [
        f"{database}.mytable",
        f"{database}.later",
    ]
    assert whole.metric("replicator_feed_state", table=f"{database}.later", state="ready") == 1
    assert whole.terminate() == 0


def test_a_dropped_table_is_taken_back_and_created_again_it_is_a_new_one(
    whole: ReplicatorProcess, consumer: Consumer, connection: Any, database: str
) -> None:
    create(connection, database, "comes", 1, 2)
    whole.start_and_wait()
    consumer.wait_for(lambda it: len(said(it, "comes")) == 2, _SECONDS)

    r.db(database).table_drop("comes").run(connection)
    consumer.wait_for(lambda it: len(said(it, "comes")) == 4, _SECONDS)
    assert sorted(said(consumer, "comes")[2:]) == [("delete", "resync", 1), ("delete", "resync", 2)]
    wait_until(lambda: feeds(whole)["comes"] == "dropped", _SECONDS, "the feed is closed")
    whole.wait_until_ready()
    assert gaps(whole) == [("aborted", 2, True)]
    _, text = whole.get("metrics")
    assert f'replicator_feed_state{{state="lost",table="{database}.comes"}}' not in text

    create(connection, database, "comes", 1)
    consumer.wait_for(lambda it: len(said(it, "comes")) == 5, _SECONDS)
    op, _, key = said(consumer, "comes")[-1]
    assert (op, key) == ("create", 1)
    whole.wait_until_ready()
    assert feeds(whole) == {"mytable": "ready", "comes": "ready"}
    assert consumer.documents("comes") == {"1": {"id": 1}}


def test_what_happens_to_tables_while_nothing_runs_is_found_at_the_next_start(
    whole: ReplicatorProcess, consumer: Consumer, connection: Any, database: str
) -> None:
    create(connection, database, "goes", 1)
    whole.start_and_wait()
    consumer.wait_for(lambda it: len(said(it, "goes")) == 1, _SECONDS)
    assert whole.terminate() == 0

    r.db(database).table_drop("goes").run(connection)
    create(connection, database, "comes", 2)
    whole.start()

    consumer.wait_for(lambda it: ("delete", "resync", 1) in said(it, "goes"), _SECONDS)
    consumer.wait_for(lambda it: ("create", "snapshot", 2) in said(it, "comes"), _SECONDS)
    whole.wait_until_ready()
    assert feeds(whole) == {"mytable": "ready", "goes": "dropped", "comes": "ready"}
    assert whole.terminate() == 0


def test_a_renamed_table_is_taken_back_under_its_old_name_and_new_under_its_new(
    whole: ReplicatorProcess, consumer: Consumer, connection: Any, database: str
) -> None:
    create(connection, database, "before", 1)
    whole.start_and_wait()
    consumer.wait_for(lambda it: len(said(it, "before")) == 1, _SECONDS)

    r.db(database).table("before").config().update({"name": "after"}).run(connection)

    consumer.wait_for(lambda it: ("create", "snapshot", 1) in said(it, "after"), _SECONDS)
    consumer.wait_for(lambda it: ("delete", "resync", 1) in said(it, "before"), _SECONDS)
    wait_until(lambda: feeds(whole)["before"] == "dropped", _SECONDS, "the old feed is closed")
    assert consumer.documents("before") == {}


def test_an_entry_of_one_table_goes_over_that_of_its_database(
    whole: ReplicatorProcess, consumer: Consumer, connection: Any, database: str, tmp_path: Path
) -> None:
    del whole.settings["TABLES"]
    path = tmp_path / "replicator.toml"
    path.write_text(
        f'[[tables]]\nname = "{database}.*"\nrouting_key = "all.{{table}}.{{op}}"\n'
        f'[[tables]]\nname = "{database}.mytable"\nrouting_key = "mine.{{op}}"\n'
    )
    whole.settings["CONFIG"] = str(path)
    create(connection, database, "other", 1)
    r.db(database).table("mytable").insert({"id": 1}).run(connection)
    whole.start_and_wait()

    found = {message.routing_key for message in consumer.wait_for_count(2, _SECONDS)}
    assert found == {"all.other.create", "mine.create"}


def test_a_database_without_tables_is_waited_for(
    whole: ReplicatorProcess, connection: Any, database: str
) -> None:
    r.db(database).table_drop("mytable").run(connection)
    checked = [json.loads(line) for line in whole.run("check", "--json").stdout.splitlines()]
    (message,) = [each["message"] for each in checked if each["part"] == f"tables {database}.*"]
    assert message.startswith("none yet")

    whole.start_and_wait()
    assert whole.status()["feeds"] == []
    assert whole.terminate() == 0
