"""The tables of the database ``rethinkdb`` that a replicator reads."""

from typing import Any

from rethinkdb import r

from tests.contract.feeds import EVERYTHING, is_ready, take_until

SYSTEM = r.db("rethinkdb")


def test_table_config_and_table_status_have_a_row_for_each_table(
    conn: Any, table: Any, db_name: str
) -> None:
    (config,) = SYSTEM.table("table_config").filter({"db": db_name}).run(conn)
    assert config == table.config().run(conn)
    assert config["name"] == "things"
    assert set(config) == {
        "db",
        "durability",
        "id",
        "indexes",
        "name",
        "primary_key",
        "shards",
        "write_acks",
        "write_hook",
    }
    (status,) = SYSTEM.table("table_status").filter({"db": db_name}).run(conn)
    assert status["id"] == config["id"]
    assert status["status"] == {
        "all_replicas_ready": True,
        "ready_for_outdated_reads": True,
        "ready_for_reads": True,
        "ready_for_writes": True,
    }


def test_info_names_the_table_its_key_and_its_database(conn: Any, table: Any, db_name: str) -> None:
    info = table.info().run(conn)
    assert (info["type"], info["name"], info["primary_key"]) == ("TABLE", "things", "id")
    assert info["db"]["name"] == db_name
    assert info["id"] == table.config().run(conn)["id"]


def test_a_feed_on_table_config_tells_of_tables_that_come_and_go(
    conn: Any, connect: Any, table: Any, db_name: str
) -> None:
    feed = SYSTEM.table("table_config").changes(**EVERYTHING).run(connect())
    snapshot = take_until(feed, is_ready)
    assert table.info().run(conn)["id"] in [
        element["new_val"]["id"] for element in snapshot if element["type"] == "initial"
    ]
    r.db(db_name).table_create("later").run(conn)

    def is_later(element: dict[str, Any]) -> bool:
        row = element["new_val"] or element["old_val"]
        return bool(row["db"] == db_name and row["name"] == "later")

    added = take_until(feed, is_later)[-1]
    assert (added["type"], added["old_val"]) == ("add", None)
    r.db(db_name).table_drop("later").run(conn)
    # While a table goes a real server may show intermediate rows of it first.
    removed = take_until(feed, lambda element: is_later(element) and element["new_val"] is None)[-1]
    assert removed["type"] == "remove"
    assert removed["old_val"]["id"] == added["new_val"]["id"]


def test_a_feed_on_db_config_tells_of_databases(conn: Any, connect: Any, db_name: str) -> None:
    feed = SYSTEM.table("db_config").changes(include_types=True).run(connect())
    name = f"{db_name}_x"
    r.db_create(name).run(conn)
    added = take_until(feed, lambda element: (element["new_val"] or {}).get("name") == name)[-1]
    assert added["type"] == "add"
    r.db_drop(name).run(conn)
    removed = take_until(feed, lambda element: (element["old_val"] or {}).get("name") == name)[-1]
    assert (removed["type"], removed["new_val"]) == ("remove", None)


def test_server_status_tells_the_version(conn: Any) -> None:
    (status,) = SYSTEM.table("server_status").run(conn)
    assert status["process"]["version"].startswith("rethinkdb 2.")
    assert status["name"] == conn.server()["name"]


def test_the_system_database_is_listed_and_cannot_be_dropped(conn: Any) -> None:
    assert "rethinkdb" in r.db_list().run(conn)
    names = SYSTEM.table_list().run(conn)
    assert {"table_config", "table_status", "db_config", "users", "permissions", "jobs"} <= set(
        names
    )
