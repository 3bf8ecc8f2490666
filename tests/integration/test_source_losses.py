"""A changefeed that RethinkDB overflows, ends or forbids: noticed, named, and opened again.

Each test runs on the embedded RethinkDB and on a real one.
"""

import json
import re
from typing import Any

import pytest
from rethinkdb import r

from replicator.domain.model import Cause, TableName
from replicator.errors import SourceRefused, TableUnusable
from replicator.source import reader as reader_module
from tests.support.reading import RunningReader, server_of
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]


def content(table: Any, driver: Any) -> dict[str, Any]:
    return {json.dumps(document["id"]): document for document in table.run(driver)}


def test_changes_that_were_dropped_are_counted_and_a_larger_queue_is_asked_for(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    with RunningReader(server_of(server), name, queue_size=10) as reader:
        reader.wait_until_ready()
        reader.sink.hold()
        table.insert({"id": 0}).run(driver)
        assert reader.sink.is_waited_for.wait(10)
        for start in range(1, 600, 100):
            documents = [{"id": n} for n in range(start, start + 100)]
            table.insert(documents).run(driver)
        reader.sink.release()
        closed = reader.wait_until_closed()
        reader.wait_until_ready(2)
        wait_until(lambda: reader.documents() == content(table, driver), 10, "the documents")
    assert closed.cause is Cause.OVERFLOW
    assert "RethinkDB dropped changes" in closed.error
    assert 0 < closed.skipped <= 601
    assert reader.queue_sizes[:2] == [10, 20]


def test_an_overflow_during_the_snapshot_ends_in_a_complete_snapshot(
    server: RethinkServer, name: TableName, table: Any, driver: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reader_module, "_STALL_SECONDS", 0.5)
    documents = [{"id": n, "text": "x" * 300, "n": 0} for n in range(3000)]
    for start in range(0, 3000, 500):
        table.insert(documents[start : start + 500]).run(driver)
    reader = RunningReader(server_of(server), name, queue_size=50)
    # The feed is open and nobody reads on: everything changes meanwhile.
    reader.sink.hold()
    with reader:
        assert reader.sink.is_waited_for.wait(10)
        table.update({"n": 1}).run(driver)
        reader.sink.release()
        wait_until(lambda: reader.documents() == content(table, driver), 60, "the documents")
        reader.wait_until_ready()
    assert reader.closed[0].cause is Cause.OVERFLOW
    # RethinkDB tells it late, or never: then the snapshot went quiet.
    assert re.search("dropped changes|went quiet", reader.closed[0].error)
    assert reader.queue_sizes[:2] == [50, 100]


def test_a_dropped_table_is_waited_for_and_followed_when_it_comes_again(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    table.insert({"id": "old"}).run(driver)
    database = r.db(name.database)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        database.table_drop(name.table).run(driver)
        first = reader.wait_until_closed()
        second = reader.wait_until_closed(2)
        database.table_create(name.table).run(driver)
        table.wait().run(driver)
        table.insert({"id": "new"}).run(driver)
        reader.wait_until_ready(2)
        wait_until(lambda: reader.documents() == {'"new"': {"id": "new"}}, 10, "the new table")
    assert first.cause is Cause.ABORTED
    assert "does not exist" in second.error
    ids = [opened.table_id for opened in reader.opened]
    assert len(set(ids)) == 2
    assert reader.error is None


def test_a_reconfigured_table_is_followed_again(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    table.insert([{"id": n} for n in range(100)]).run(driver)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        table.reconfigure(shards=2, replicas=1).run(driver)
        closed = reader.wait_until_closed()
        reader.wait_until_ready(2, 30)
        table.wait().run(driver)
        table.insert({"id": "later"}).run(driver)
        wait_until(lambda: len(reader.documents()) == 101, 10, "the documents")
    assert closed.cause is Cause.ABORTED
    assert len({opened.table_id for opened in reader.opened}) == 1


def test_a_feed_that_was_killed_as_a_job_is_opened_again(
    server: RethinkServer, name: TableName, table: Any, driver: Any, user: str
) -> None:
    table.grant(user, {"read": True}).run(driver)
    mine = r.db("rethinkdb").table("jobs").filter({"type": "query", "info": {"user": user}})
    with RunningReader(server_of(server, user=user, password="secret"), name) as reader:
        reader.wait_until_ready()
        assert wait_until(lambda: mine.delete().run(driver)["deleted"], 10, "the job") == 1
        closed = reader.wait_until_closed()
        reader.wait_until_ready(2)
    assert closed.cause is Cause.ABORTED
    assert "terminated" in closed.error
    assert reader.metric("replicator_reconnects_total", peer="rethinkdb") == 1


def test_a_requested_resync_opens_the_feed_again(server: RethinkServer, name: TableName) -> None:
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        reader.reader.request_resync()
        reader.wait_until_ready(2)
        assert [closed.cause for closed in reader.closed] == [Cause.REQUESTED]


def test_permission_that_is_revoked_is_waited_for(
    server: RethinkServer, name: TableName, table: Any, driver: Any, user: str
) -> None:
    table.grant(user, {"read": True}).run(driver)
    with RunningReader(server_of(server, user=user, password="secret"), name) as reader:
        reader.wait_until_ready()
        table.grant(user, {"read": False}).run(driver)

        def notices() -> bool:
            # The server looks at permissions only when it has something to send.
            table.insert({}).run(driver)
            return bool(reader.closed)

        wait_until(notices, 10, "the loss")
        assert "no permission to read" in reader.closed[0].error
        table.grant(user, {"read": True}).run(driver)
        reader.wait_until_ready(2)
        wait_until(lambda: reader.documents() == content(table, driver), 10, "the documents")
    assert reader.error is None


def test_a_user_who_may_not_read_is_refused_with_what_to_grant(
    server: RethinkServer, name: TableName, user: str
) -> None:
    with RunningReader(server_of(server, user=user, password="secret"), name) as reader:
        error = reader.wait_for_refusal()
    assert isinstance(error, SourceRefused)
    assert f"no permission to read {name}" in str(error)
    assert f"r.db('{name.database}').table('{name.table}').grant(" in str(error.hint)
    assert "\n" not in str(error)
    assert reader.opened == []


@pytest.mark.parametrize("missing", ["table", "db", "permissions"])
def test_a_table_that_does_not_exist_is_an_error_with_its_name(
    server: RethinkServer, name: TableName, missing: str
) -> None:
    wanted = {
        "table": name._replace(table="nothing"),
        "db": name._replace(database="nowhere"),
        # A name that reads like the server's text about permissions.
        "permissions": name._replace(table="permissions"),
    }[missing]
    with RunningReader(server_of(server), wanted) as reader:
        error = reader.wait_for_refusal()
    assert isinstance(error, TableUnusable), repr(error)
    assert str(wanted) in str(error)
    assert "create the table" in str(error.hint)


@pytest.mark.parametrize("password", ["ä", "пароль 密码", '=,%"\\ '])
def test_a_password_may_have_any_characters(
    server: RethinkServer, name: TableName, table: Any, driver: Any, user: str, password: str
) -> None:
    r.db("rethinkdb").table("users").get(user).update({"password": password}).run(driver)
    table.grant(user, {"read": True}).run(driver)
    with RunningReader(server_of(server, user=user, password=password), name) as reader:
        reader.wait_until_ready()
    with RunningReader(server_of(server, user=user, password=password + "ж"), name) as reader:
        assert isinstance(reader.wait_for_refusal(), SourceRefused)


@pytest.mark.parametrize("changes", [{"password": "marker-wrong"}, {"user": "nobody"}])
def test_a_wrong_user_or_password_is_refused(
    server: RethinkServer, name: TableName, changes: dict[str, str]
) -> None:
    with RunningReader(server_of(server, **changes), name) as reader:
        error = reader.wait_for_refusal()
    assert isinstance(error, SourceRefused)
    assert "refuses user" in str(error)
    assert "marker" not in f"{error} {error.hint}"
    assert "rethinkdb.url" in str(error.hint)
