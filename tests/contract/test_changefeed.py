"""Changefeeds on a table: order, initial values, states, types."""

import socket
import threading
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlDriverError, ReqlQueryLogicError

from tests.contract.conftest import Connect
from tests.contract.feeds import EVERYTHING, assert_silent, is_ready, take, take_until
from tests.contract.raw import RawConnection, Silence
from tests.support.rethink import driver_socket


def _fill(conn: Any, table: Any, count: int, text: str = "") -> None:
    documents = [{"id": number, "n": 0, "text": text} for number in range(count)]
    for start in range(0, count, 200):
        table.insert(documents[start : start + 200]).run(conn)


def test_every_write_after_the_feed_was_opened_is_in_it(conn: Any, table: Any) -> None:
    feed = table.changes(squash=False).run(conn)
    table.insert({"id": 1, "a": 1}).run(conn)
    table.get(1).update({"a": 2}).run(conn)
    table.get(1).delete().run(conn)
    assert take(feed, 3) == [
        {"old_val": None, "new_val": {"id": 1, "a": 1}},
        {"old_val": {"id": 1, "a": 1}, "new_val": {"id": 1, "a": 2}},
        {"old_val": {"id": 1, "a": 2}, "new_val": None},
    ]


def test_types_say_what_happened(conn: Any, table: Any) -> None:
    feed = table.changes(include_types=True).run(conn)
    table.insert({"id": 1}).run(conn)
    table.get(1).update({"a": 2}).run(conn)
    table.get(1).delete().run(conn)
    assert [change["type"] for change in take(feed, 3)] == ["add", "change", "remove"]


def test_without_initial_values_the_first_state_is_ready(conn: Any, table: Any) -> None:
    feed = table.changes(include_states=True, include_types=True).run(conn)
    assert take(feed, 1) == [{"state": "ready", "type": "state"}]


def test_a_snapshot_lies_between_initializing_and_ready(conn: Any, table: Any) -> None:
    _fill(conn, table, 50)
    feed = table.changes(squash=False, **EVERYTHING).run(conn)
    first, *initials, last = take_until(feed, is_ready)
    assert first == {"state": "initializing", "type": "state"}
    assert last == {"state": "ready", "type": "state"}
    assert all(set(element) == {"new_val", "type"} for element in initials)
    assert {element["type"] for element in initials} == {"initial"}
    assert sorted(element["new_val"]["id"] for element in initials) == list(range(50))
    table.insert({"id": 99}).run(conn)
    assert take(feed, 1) == [{"old_val": None, "new_val": {"id": 99}, "type": "add"}]


def test_the_snapshot_of_an_empty_table_is_ready_at_once(conn: Any, table: Any) -> None:
    feed = table.changes(**EVERYTHING).run(conn)
    states = [element["state"] for element in take(feed, 2)]
    assert states == ["initializing", "ready"]


def test_initial_values_are_not_in_the_order_of_keys(conn: Any, table: Any) -> None:
    _fill(conn, table, 200)
    feed = table.changes(include_initial=True).run(conn)
    keys = [element["new_val"]["id"] for element in take(feed, 200)]
    assert sorted(keys) == list(range(200))
    assert keys != sorted(keys)


def test_a_second_feed_repeats_the_whole_snapshot(conn: Any, table: Any) -> None:
    _fill(conn, table, 30)
    for _ in range(2):
        feed = table.changes(**EVERYTHING).run(conn)
        assert len(take_until(feed, is_ready)) == 32
        feed.close()


def test_old_val_is_always_the_new_val_before(conn: Any, table: Any, connect: Connect) -> None:
    feed = table.changes(squash=False).run(connect())

    def write(keys: range) -> None:
        writer = connect()
        for number in range(60):
            for key in keys:
                table.insert({"id": key, "n": number}, conflict="replace").run(writer)

    threads = [threading.Thread(target=write, args=(range(i * 3, i * 3 + 5),)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table.insert({"id": "end"}).run(conn)
    latest: dict[Any, Any] = {}
    changes = take_until(feed, lambda element: _key(element) == "end")
    for change in changes:
        key = _key(change)
        assert change["old_val"] == latest.get(key)
        latest[key] = change["new_val"]
    assert len(changes) > 100


def _key(change: dict[str, Any]) -> Any:
    return (change["new_val"] or change["old_val"])["id"]


@pytest.mark.parametrize(
    "write",
    [
        lambda table: table.get(1).update({"a": 1}),
        lambda table: table.get(1).update({"z": -0.0}),
        lambda table: table.get(1).update({"t": r.epoch_time(5).in_timezone("+02:00")}),
        lambda table: table.insert({"id": 1}, conflict="update"),
        lambda table: table.insert({"id": 1}),
        lambda table: table.get(2).delete(),
    ],
    ids=["same", "zero's sign", "only the zone", "update by nothing", "refused", "delete none"],
)
def test_a_write_that_changes_nothing_is_no_event(conn: Any, table: Any, write: Any) -> None:
    table.insert({"id": 1, "a": 1, "z": 0, "t": r.epoch_time(5)}).run(conn)
    feed = table.changes().run(conn)
    before = table.get(1).run(conn, time_format="raw")
    write(table).run(conn)
    table.insert({"id": "next"}).run(conn)
    assert take(feed, 1)[0]["new_val"] == {"id": "next"}
    assert repr(table.get(1).run(conn, time_format="raw")) == repr(before)


def test_the_first_batch_comes_at_once_and_may_be_empty(raw: RawConnection, table: Any) -> None:
    raw.start(table.changes())
    assert raw.read() == b'{"t":3,"r":[],"n":[1]}'
    raw.start(table.changes(include_states=True))
    assert raw.read() == b'{"t":3,"r":[{"state":"ready"}],"n":[1,5]}'


def test_a_feed_is_answered_only_when_asked(raw: RawConnection, conn: Any, table: Any) -> None:
    token = raw.start(table.changes())
    raw.read()
    table.insert({"id": 1}).run(conn)
    with pytest.raises(Silence):
        raw.read(timeout=0.3)
    raw.ask(token)
    assert raw.read() == b'{"t":3,"r":[{"new_val":{"id":1},"old_val":null}],"n":[1]}'
    raw.ask(token)
    with pytest.raises(Silence):
        raw.read(timeout=0.3)
    table.insert({"id": 2}).run(conn)
    assert raw.read() == b'{"t":3,"r":[{"new_val":{"id":2},"old_val":null}],"n":[1]}'


def test_stop_ends_the_feed_and_answers_the_open_request(raw: RawConnection, table: Any) -> None:
    token = raw.start(table.changes())
    raw.read()
    raw.ask(token)
    raw.stop(token)
    assert [raw.read(), raw.read()] == [b'{"t":2,"r":[],"n":[]}'] * 2
    raw.ask(token)
    assert b" not in stream cache." in raw.read()


def test_batches_are_about_a_mebibyte(raw: RawConnection, conn: Any, table: Any) -> None:
    _fill(conn, table, 4000, text="x" * 1000)
    token = raw.start(table.changes(include_initial=True))
    sizes = [len(raw.read())]
    for _ in range(2):
        raw.ask(token)
        sizes.append(len(raw.read()))
    assert 100_000 < sizes[0] < 600_000
    assert all(500_000 < size < 2_000_000 for size in sizes[1:])


def _initial_keys(response: bytes) -> set[int]:
    """Return the keys of the initial values in a batch of documents from `_fill`."""
    parts = response.split(b'{"new_val":{"id":')[1:]
    return {int(part.split(b",")[0]) for part in parts if b"old_val" not in part}


def test_changes_to_what_was_read_come_between_initial_values(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    _fill(conn, table, 3000, text="x" * 300)
    token = raw.start(table.changes(include_initial=True))
    read = _initial_keys(raw.read())
    unread = set(range(3000)) - read
    assert read
    assert unread
    changed_read, changed_unread = min(read), sorted(unread)[-5:]
    table.get(changed_read).update({"n": 1}).run(conn)
    for key in changed_unread:
        table.get(key).update({"n": 2}).run(conn)
    deleted = min(unread)
    table.get(deleted).delete().run(conn)
    response = b""
    while unread - {deleted} - read:
        raw.ask(token)
        batch = raw.read()
        read |= _initial_keys(batch)
        response += batch
    # The change to a document that was read comes before all further initial values; the
    # others are in the feed once, as initial values that contain the change already.
    assert response.startswith(b'{"t":3,"r":[{"new_val":{"id":%d,"n":1,' % changed_read)
    for key in changed_unread:
        assert response.count(b'"id":%d,' % key) == 1
        assert b'{"new_val":{"id":%d,"n":2,' % key in response
    assert b'"id":%d,' % deleted not in response


def test_an_insert_during_the_snapshot_comes_exactly_once(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    _fill(conn, table, 3000, text="x" * 300)
    token = raw.start(table.changes(include_initial=True, include_states=True))
    response = raw.read()
    added = [f"new{number}" for number in range(50)]
    table.insert([{"id": key} for key in added]).run(conn)
    while b'"ready"' not in response:
        raw.ask(token)
        response += raw.read()
    assert [response.count(b'"id":"%b"' % key.encode()) for key in added] == [1] * 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"squash": "a"}, "Expected BOOL or NUMBER but found STRING"),
        ({"squash": -1}, "a negative NUMBER"),
        ({"changefeed_queue_size": 0}, r"Illegal changefeed queue size `0`.  \(Must be >= 1"),
        ({"include_offsets": True}, "Cannot include offsets for range subs"),
    ],
)
def test_wrong_options_are_refused(
    conn: Any, table: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReqlQueryLogicError, match=message):
        table.changes(**options).run(conn)


def test_squashing_merges_the_changes_of_one_document(
    raw: RawConnection, conn: Any, table: Any
) -> None:
    token = raw.start(table.changes(squash=True, include_types=True))
    raw.read()
    table.insert({"id": 1, "n": 0}).run(conn)
    table.insert({"id": 2}).run(conn)
    table.get(1).update({"n": 1}).run(conn)
    table.get(2).delete().run(conn)
    raw.ask(token)
    assert raw.read() == (
        b'{"t":3,"r":[{"new_val":{"id":1,"n":1},"old_val":null,"type":"add"}],"n":[1]}'
    )


def test_squashing_by_seconds_waits_for_more(conn: Any, connect: Connect, table: Any) -> None:
    feed = table.changes(squash=0.5).run(connect())
    table.insert({"id": 1, "n": 0}).run(conn)
    table.get(1).update({"n": 1}).run(conn)
    table.get(1).update({"n": 2}).run(conn)
    assert take(feed, 1) == [{"old_val": None, "new_val": {"id": 1, "n": 2}}]


def test_a_closed_connection_ends_the_feed_of_its_reader(connect: Connect, table: Any) -> None:
    connection = connect()
    feed = table.changes().run(connection)
    with driver_socket(connection) as connected:
        connected.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            feed.next(wait=10)


def test_several_feeds_share_a_connection(conn: Any, table: Any) -> None:
    feeds = [table.changes().run(conn) for _ in range(3)]
    table.insert({"id": 1}).run(conn)
    for feed in feeds:
        assert take(feed, 1) == [{"old_val": None, "new_val": {"id": 1}}]
    assert_silent(feeds[0])
