"""The service, while tables change their names: a name means the table that has it."""

import json
import time
from typing import Any

import pytest
from rethinkdb import r

from tests.support.consumer import Consumer
from tests.support.replicator import ReplicatorProcess
from tests.support.wait import wait_until

# A feed that is quiet is asked for its table every 10 seconds.
_SECONDS = 40


def rename(connection: Any, database: str, old: str, new: str) -> None:
    config = r.db("rethinkdb").table("table_config").filter({"db": database})
    config.filter({"name": old}).update({"name": new}).run(connection)


def make(connection: Any, database: str, table: str, documents: list[dict[str, Any]]) -> None:
    r.db(database).table_create(table).run(connection)
    r.db(database).table(table).wait().run(connection)
    r.db(database).table(table).insert(documents).run(connection)


@pytest.mark.parametrize(("tables", "apart_seconds"), [("mytable", 0.05), ("*", 3.0)])
def test_a_table_that_is_replaced_by_renaming_is_compared_with_the_old_one(
    replicator: ReplicatorProcess,
    vhost: str,
    connection: Any,
    database: str,
    tables: str,
    apart_seconds: float,
) -> None:
    replicator.settings["TABLES"] = f"{database}.{tables}"
    old = [{"id": "gone", "n": 1}, {"id": "changed", "n": 1}, {"id": "same", "n": 1}]
    new = [{"id": "changed", "n": 2}, {"id": "same", "n": 1}, {"id": "new", "n": 2}]
    r.db(database).table("mytable").insert(old).run(connection)
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        consumer.wait_for(lambda it: len(it.documents("mytable")) == 3, _SECONDS)
        make(connection, database, "mytable_new", new)

        rename(connection, database, "mytable", "mytable_old")
        time.sleep(apart_seconds)  # the case
        rename(connection, database, "mytable_new", "mytable")

        wanted = {json.dumps(document["id"]): document for document in new}
        consumer.wait_for(lambda it: it.documents("mytable") == wanted, _SECONDS)
        replicator.wait_until_ready()
        # What is written to the old table now does not go out under the name.
        r.db(database).table("mytable_old").insert({"id": "late"}).run(connection)
        r.db(database).table("mytable").insert({"id": "newest"}).run(connection)
        consumer.wait_for(lambda it: '"newest"' in it.documents("mytable"), _SECONDS)
        repaired = [
            (message.op, (message.new_val or message.old_val)["id"])
            for message in consumer.history
            if message.table == "mytable" and message.origin == "resync"
        ]
        assert sorted(repaired) == [("create", "new"), ("delete", "gone"), ("update", "changed")]
        assert '"late"' not in consumer.documents("mytable")
        gap = wait_until(lambda: _gap(replicator, f"{database}.mytable"), _SECONDS, "the gap")
        assert gap == ("aborted", 1, 1, 1)


def test_a_table_that_took_the_name_while_nothing_ran_is_compared_at_the_start(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str
) -> None:
    r.db(database).table("mytable").insert([{"id": "gone"}, {"id": "same"}]).run(connection)
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        consumer.wait_for(lambda it: len(it.documents("mytable")) == 2, _SECONDS)
        assert replicator.terminate() == 0
        # The table that takes the name has another primary key too.
        r.db(database).table_create("mytable_new", primary_key="key").run(connection)
        r.db(database).table("mytable_new").wait().run(connection)
        documents = [{"key": "new", "id": 1}, {"key": "same", "id": 2}]
        r.db(database).table("mytable_new").insert(documents).run(connection)
        rename(connection, database, "mytable", "mytable_old")
        rename(connection, database, "mytable_new", "mytable")
        replicator.start_and_wait()
        consumer.wait_for(lambda it: len(it.history) == 5, _SECONDS)
    found = [(each.op, each.old_val, each.new_val) for each in consumer.history[2:]]
    assert sorted(found, key=str) == [
        ("create", None, {"key": "new", "id": 1}),
        ("delete", {"id": "gone"}, None),
        ("update", None, {"key": "same", "id": 2}),
    ]


def _gap(replicator: ReplicatorProcess, table: str) -> tuple[str, int, int, int] | None:
    rows = [json.loads(row) for row in replicator.run("feed", "gaps", "--json").stdout.splitlines()]
    closed = [row for row in rows if row["table"] == table and row["to"] is not None]
    if not closed:
        return None
    (row,) = closed
    return row["cause"], row["created"], row["updated"], row["deleted"]
