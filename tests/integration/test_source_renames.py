"""Tables that change their names under an open feed: RethinkDB's feeds stay with the table.

Each test runs on the embedded RethinkDB and on a real one.
"""

import time
from typing import Any

import pytest
from rethinkdb import r

from replicator.domain.model import Cause, TableName
from replicator.source import changefeed as changefeed_module
from tests.support.reading import RunningReader, server_of
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]


def rename(driver: Any, database: str, old: str, new: str) -> None:
    config = r.db("rethinkdb").table("table_config")
    config.filter({"db": database, "name": old}).update({"name": new}).run(driver)


def rename_database(driver: Any, old: str, new: str) -> None:
    config = r.db("rethinkdb").table("db_config")
    config.filter({"name": old}).update({"name": new}).run(driver)


def make(driver: Any, database: str, table: str, *keys: str) -> None:
    r.db(database).table_create(table).run(driver)
    r.db(database).table(table).wait().run(driver)
    r.db(database).table(table).insert([{"id": key} for key in keys]).run(driver)


@pytest.mark.parametrize("apart_seconds", [0.0, 0.05, 3.0])
def test_the_table_that_takes_the_name_is_followed(
    server: RethinkServer, name: TableName, table: Any, driver: Any, apart_seconds: float
) -> None:
    database = name.database
    table.insert({"id": "old"}).run(driver)
    make(driver, database, "next", "new")
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        # When the table is replaced as a migration does it
        rename(driver, database, name.table, "before")
        time.sleep(apart_seconds)  # the case
        rename(driver, database, "next", name.table)
        # Then the feed is lost, and the new table is read whole
        closed = reader.wait_until_closed()
        reader.wait_until_ready(2)
        assert closed.cause is Cause.ABORTED
        assert "another table now" in closed.error or "does not exist" in closed.error
        assert reader.documents() == {'"new"': {"id": "new"}}
        first, *_, last = reader.opened
        assert first.table_id != last.table_id
        # And what is written to the old one from here on does not go out under the name
        r.db(database).table("before").insert({"id": "late"}).run(driver)
        table.insert({"id": "newer"}).run(driver)
        wait_until(lambda: '"newer"' in reader.documents(), 10, "the newer document")
        assert set(reader.documents()) == {'"new"', '"newer"'}


def test_permission_to_read_is_all_that_it_takes(
    server: RethinkServer, name: TableName, driver: Any, user: str
) -> None:
    """The tests above ask as an administrator, who gets another answer."""
    r.db(name.database).grant(user, {"read": True}).run(driver)
    make(driver, name.database, "next", "new")
    with RunningReader(server_of(server, user=user, password="secret"), name) as reader:
        reader.wait_until_ready()
        rename(driver, name.database, name.table, "before")
        rename(driver, name.database, "next", name.table)
        assert "another table now" in reader.wait_until_closed().error
        reader.wait_until_ready(2)
        assert reader.documents() == {'"new"': {"id": "new"}}


def test_two_tables_that_swap_their_names_are_both_followed(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    database, other = name.database, name._replace(table="other")
    table.insert({"id": "a"}).run(driver)
    make(driver, database, "other", "b")
    with (
        RunningReader(server_of(server), name) as first,
        RunningReader(server_of(server), other) as second,
    ):
        first.wait_until_ready()
        second.wait_until_ready()
        rename(driver, database, name.table, "aside")
        rename(driver, database, "other", name.table)
        rename(driver, database, "aside", "other")
        wait_until(lambda: set(first.documents()) == {'"b"'}, 20, "the other's documents")
        wait_until(lambda: set(second.documents()) == {'"a"'}, 20, "the first's documents")
        assert first.opened[-1].table_id == second.opened[0].table_id
        assert second.opened[-1].table_id == first.opened[0].table_id


def test_a_table_that_is_renamed_away_is_waited_for(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    table.insert({"id": 1}).run(driver)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        rename(driver, name.database, name.table, "away")
        closed = reader.wait_until_closed()
        assert "does not exist" in closed.error
        r.db(name.database).table("away").insert({"id": 2}).run(driver)
        rename(driver, name.database, "away", name.table)
        reader.wait_until_ready(2)
        wait_until(lambda: len(reader.documents()) == 2, 10, "the documents")
    assert len({opened.table_id for opened in reader.opened}) == 1
    assert reader.error is None


def test_a_database_that_takes_the_name_of_another_brings_its_tables(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    table.insert({"id": "old"}).run(driver)
    before, after = f"{name.database}_old", f"{name.database}_new"
    r.db_create(after).run(driver)
    make(driver, after, name.table, "new")
    try:
        with RunningReader(server_of(server), name) as reader:
            reader.wait_until_ready()
            rename_database(driver, name.database, before)
            rename_database(driver, after, name.database)
            reader.wait_until_closed()
            reader.wait_until_ready(2)
            assert reader.documents() == {'"new"': {"id": "new"}}
    finally:
        r.db_drop(before).run(driver)


def test_a_table_that_takes_the_name_while_a_snapshot_is_read_is_read_after_it(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    documents = [{"id": f"old {n}", "text": "x" * 300} for n in range(2000)]
    table.insert(documents).run(driver)
    make(driver, name.database, "next", "new")
    reader = RunningReader(server_of(server), name)
    reader.sink.hold()
    with reader:
        assert reader.sink.is_waited_for.wait(10)
        rename(driver, name.database, name.table, "before")
        rename(driver, name.database, "next", name.table)
        reader.sink.release()
        wait_until(lambda: set(reader.documents()) == {'"new"'}, 20, "the new table")


def test_a_table_that_takes_the_name_while_a_feed_is_opened_is_not_taken_for_it(
    server: RethinkServer,
    name: TableName,
    table: Any,
    driver: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table.insert({"id": "old"}).run(driver)
    make(driver, name.database, "next", "new")
    projected = changefeed_module.projected
    swaps = [(name.table, "before"), ("next", name.table)]

    def projected_late(*given: Any) -> Any:
        while swaps:
            rename(driver, name.database, *swaps.pop(0))
        return projected(*given)

    monkeypatch.setattr(changefeed_module, "projected", projected_late)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        assert reader.documents() == {'"new"': {"id": "new"}}
        assert "another table now" in reader.closed[0].error
    assert len(reader.opened) == 1
    assert reader.opened[0].table_id == table.info()["id"].run(driver)


def test_a_system_table_can_be_followed_and_is_never_another(server: RethinkServer) -> None:
    with RunningReader(server_of(server), TableName("rethinkdb", "users")) as reader:
        reader.wait_until_ready()
        pinged = reader.reader.complete_at
        wait_until(lambda: reader.reader.complete_at > pinged, 20, "an answer to a ping")
        assert reader.closed == []
