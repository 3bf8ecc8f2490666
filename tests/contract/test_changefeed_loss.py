"""How a changefeed loses data, and how it ends."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import (
    ReqlOpFailedError,
    ReqlOpIndeterminateError,
    ReqlPermissionError,
)

from tests.contract.conftest import Connect
from tests.contract.eventually import allowed, denied
from tests.contract.feeds import EVERYTHING, take
from tests.contract.raw import RawConnection, Silence
from tests.support.wait import wait_until

_SKIPPED = re.compile(
    rb'\{"error":"Changefeed cache over array size limit, skipped (\d+) elements\."\}'
)


def _documents(prefix: str, count: int) -> list[dict[str, Any]]:
    return [{"id": f"{prefix}{number}"} for number in range(count)]


def _insert_and_see(conn: Any, table: Any, count: int) -> None:
    """Insert documents and wait until feeds have them: an event may follow the write's answer."""
    witness = table.changes().run(conn)
    table.insert(_documents("k", count)).run(conn)
    take(witness, count)
    witness.close()


def test_a_full_queue_is_dropped_whole_and_the_loss_is_told(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    token = raw.start(table.changes(changefeed_queue_size=100, include_types=True))
    raw.read()
    _insert_and_see(conn, table, 250)
    raw.ask(token)
    response = raw.read()
    loss = _SKIPPED.fullmatch(response, len(b'{"t":3,"r":['), len(response) - len(b'],"n":[1]}'))
    assert loss is not None
    skipped, survivors = int(loss[1]), 0
    assert skipped == 202
    while survivors + skipped < 250:
        raw.ask(token)
        survivors += raw.read().count(b'"type":"add"')
    assert survivors == 48


def test_the_feed_goes_on_after_a_loss(raw: RawConnection, conn: Any, table: Any) -> None:
    token = raw.start(table.changes(changefeed_queue_size=10))
    raw.read()
    _insert_and_see(conn, table, 11)
    raw.ask(token)
    assert b"skipped 11 elements" in raw.read()
    table.insert({"id": "later"}).run(conn)
    raw.ask(token)
    assert b'"id":"later"' in raw.read()


def test_the_queue_size_may_be_an_option_of_the_query(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    token = raw.start(table.changes(), changefeed_queue_size=1)
    raw.read()
    _insert_and_see(conn, table, 2)
    raw.ask(token)
    assert b"skipped 2 elements" in raw.read()


def test_a_loss_during_the_snapshot_is_told_only_after_further_writes(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    documents = [{"id": number, "text": "x" * 300, "n": 0} for number in range(3000)]
    for start in range(0, 3000, 500):
        table.insert(documents[start : start + 500]).run(conn)
    token = raw.start(table.changes(changefeed_queue_size=50, **EVERYTHING))
    received = raw.read()
    # Every document changes while nobody asks: the queue overflows again and again.
    table.update({"n": 1}).run(conn)
    raw.ask(token)
    while received.count(b'"type":"initial"') < 3000:
        received += raw.read()
        raw.ask(token)
    with suppress(Silence):
        while True:
            received += raw.read(timeout=0.5)
            raw.ask(token)
    assert b'"ready"' not in received
    assert b'"error"' not in received
    rounds = iter(range(2, 200))

    def write_and_read() -> bool:
        nonlocal received
        # Every hash shard needs a write after the loss, a few at a time: no second overflow.
        number = next(rounds)
        table.get_all(*range(number * 10, number * 10 + 10)).update({"n": number}).run(conn)
        try:
            received += raw.read(timeout=0.1)
        except Silence:
            return False
        raw.ask(token)
        return b'"ready"' in received

    wait_until(write_and_read, 30, "ready after further writes")
    assert received.index(b'{"error":') < received.index(b'"ready"')


def _abort_cases() -> dict[str, Callable[[Any, str], Any]]:
    return {
        "table_drop": lambda _table, db: r.db(db).table_drop("things"),
        "db_drop": lambda _table, db: r.db_drop(db),
        "reconfigure": lambda table, _db: table.reconfigure(shards=2, replicas=1),
    }


@pytest.mark.parametrize("case", _abort_cases())
def test_a_table_that_goes_or_moves_aborts_its_feeds(
    conn: Any, connect: Connect, table: Any, db_name: str, case: str
) -> None:
    feeds = [table.changes().run(connect()), table.get(1).changes().run(connect())]
    _abort_cases()[case](table, db_name).run(conn)
    for feed in feeds:
        with pytest.raises(ReqlOpFailedError, match=r"Changefeed aborted \(unavailable\)"):
            feed.next(wait=20)


def test_a_table_created_again_is_another_table(
    conn: Any, connect: Connect, table: Any, db_name: str
) -> None:
    before = table.info().run(conn)["id"]
    feed = table.changes().run(connect())
    r.db(db_name).table_drop("things").run(conn)
    r.db(db_name).table_create("things").run(conn)
    assert table.info().run(conn)["id"] != before
    with pytest.raises(ReqlOpFailedError, match=r"Changefeed aborted \(unavailable\)"):
        feed.next(wait=20)


def test_an_abort_goes_before_changes_that_were_not_sent(
    raw: RawConnection, conn: Any, table: Any, db_name: str
) -> None:
    token = raw.start(table.changes())
    raw.read()
    table.insert(_documents("k", 20)).run(conn)
    r.db(db_name).table_drop("things").run(conn)
    raw.ask(token)
    assert raw.read() == (b'{"t":18,"e":4100000,"r":["Changefeed aborted (unavailable)."],"b":[]}')


def test_renaming_a_table_keeps_its_feeds(conn: Any, table: Any, db_name: str) -> None:
    feed = table.changes().run(conn)
    config = r.db("rethinkdb").table("table_config")
    config.filter({"db": db_name, "name": "things"}).update({"name": "renamed"}).run(conn)
    r.db(db_name).table("renamed").insert({"id": 1}).run(conn)
    assert take(feed, 1) == [{"old_val": None, "new_val": {"id": 1}}]


def test_a_feed_stays_with_its_table_while_another_takes_the_name(
    conn: Any, table: Any, db_name: str
) -> None:
    before = table.status()["id"].run(conn)
    assert before == table.info()["id"].run(conn) == table.config()["id"].run(conn)
    feed = table.changes().run(conn)
    r.db(db_name).table_create("new").run(conn)
    config = r.db("rethinkdb").table("table_config").filter({"db": db_name})
    config.filter({"name": "things"}).update({"name": "old"}).run(conn)
    with pytest.raises(ReqlOpFailedError, match="does not exist"):
        table.status().run(conn)
    config.filter({"name": "new"}).update({"name": "things"}).run(conn)
    assert table.status()["id"].run(conn) != before
    table.insert({"id": "of the new"}).run(conn)
    r.db(db_name).table("old").insert({"id": "of the old"}).run(conn)
    assert take(feed, 1) == [{"old_val": None, "new_val": {"id": "of the old"}}]


def test_deleting_its_job_kills_a_feed(conn: Any, connect: Connect, table: Any, user: str) -> None:
    table.grant(user, {"read": True}).run(conn)
    reader = connect(user=user, password="secret")
    allowed(lambda: table.get(1).run(reader))
    feed = table.changes().run(reader)
    jobs = r.db("rethinkdb").table("jobs")
    mine = jobs.filter({"type": "query", "info": {"user": user}})
    (job,) = wait_until(lambda: list(mine.run(conn)), what="the feed's job")
    assert job["info"]["query"].endswith('.table("things").changes()')
    assert mine.delete().run(conn)["deleted"] == 1
    with pytest.raises(ReqlOpIndeterminateError, match="Query terminated by the"):
        feed.next(wait=10)


def test_a_feed_that_was_closed_leaves_no_job(
    conn: Any, connect: Connect, table: Any, user: str
) -> None:
    table.grant(user, {"read": True}).run(conn)
    reader = connect(user=user, password="secret")
    allowed(lambda: table.get(1).run(reader))
    mine = r.db("rethinkdb").table("jobs").filter({"info": {"user": user}})
    table.changes().run(reader)
    wait_until(lambda: len(list(mine.run(conn))) == 1, what="the feed's job")
    reader.close(noreply_wait=False)
    wait_until(lambda: not list(mine.run(conn)), what="the end of the feed's job")


def test_revoking_read_lets_one_more_batch_through(
    conn: Any, connect: Connect, table: Any, user: str
) -> None:
    table.grant(user, {"read": True}).run(conn)
    reader = connect(user=user, password="secret")
    allowed(lambda: table.get(1).run(reader))
    feed = table.changes().run(reader)
    table.insert({"id": 1}).run(conn)
    assert take(feed, 1) == [{"old_val": None, "new_val": {"id": 1}}]
    table.grant(user, {"read": False}).run(conn)
    other = connect(user=user, password="secret")
    denied(lambda: table.get(1).run(other))
    table.insert({"id": 2}).run(conn)
    assert take(feed, 1) == [{"old_val": None, "new_val": {"id": 2}}]
    with pytest.raises(ReqlPermissionError, match="does not have the required `read`"):
        feed.next(wait=10)
