"""Changefeeds on less than a table: ranges, keys, filters, single documents."""

from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlQueryLogicError

from tests.contract.feeds import EVERYTHING, is_ready, take, take_until


def _initials(feed: Any) -> list[Any]:
    elements = take_until(feed, is_ready)
    return sorted(
        (element["new_val"] for element in elements if element["type"] == "initial"),
        key=repr,
    )


def test_a_range_feed_sees_its_range(conn: Any, table: Any) -> None:
    table.insert([{"id": number} for number in range(10)]).run(conn)
    feed = table.between(3, 6).changes(**EVERYTHING).run(conn)
    assert _initials(feed) == [{"id": 3}, {"id": 4}, {"id": 5}]
    table.get(2).delete().run(conn)
    table.get(6).delete().run(conn)
    table.get(5).delete().run(conn)
    assert take(feed, 1) == [{"old_val": {"id": 5}, "new_val": None, "type": "remove"}]


def test_two_range_feeds_cover_a_table_without_overlap(conn: Any, table: Any) -> None:
    table.insert([{"id": number} for number in range(20)]).run(conn)
    low = table.between(r.minval, 10).changes(**EVERYTHING).run(conn)
    high = table.between(10, r.maxval).changes(**EVERYTHING).run(conn)
    both = _initials(low) + _initials(high)
    assert sorted(document["id"] for document in both) == list(range(20))


def test_a_feed_on_keys_sees_a_key_as_often_as_it_was_given(conn: Any, table: Any) -> None:
    table.insert([{"id": 1}, {"id": 2}, {"id": 3}]).run(conn)
    feed = table.get_all(1, 3).changes(**EVERYTHING).run(conn)
    assert _initials(feed) == [{"id": 1}, {"id": 3}]
    twice = table.get_all(1, 1).changes().run(conn)
    table.get(2).update({"a": 1}).run(conn)
    table.get(1).update({"a": 1}).run(conn)
    expected = {"old_val": {"id": 1}, "new_val": {"id": 1, "a": 1}}
    assert take(feed, 1) == [{**expected, "type": "change"}]
    assert take(twice, 2) == [expected, expected]


def test_entering_and_leaving_a_filter_look_like_insert_and_delete(conn: Any, table: Any) -> None:
    table.insert([{"id": 1, "n": 1}, {"id": 2, "n": 9}]).run(conn)
    feed = table.filter(r.row["n"] > 5).changes(**EVERYTHING).run(conn)
    assert _initials(feed) == [{"id": 2, "n": 9}]
    table.get(1).update({"n": 6}).run(conn)
    table.get(1).update({"n": 7}).run(conn)
    table.get(1).update({"n": 1}).run(conn)
    table.get(1).update({"n": 2}).run(conn)
    assert [change["type"] for change in take(feed, 3)] == ["add", "change", "remove"]


def test_a_document_for_which_the_filter_fails_is_not_in_the_set(conn: Any, table: Any) -> None:
    table.insert([{"id": 1, "n": "text"}, {"id": 2, "n": 1}, {"id": 3}]).run(conn)
    feed = table.filter(r.row["n"] + 1 == 2).changes().run(conn)
    table.get(1).update({"a": 1}).run(conn)
    table.get(3).update({"a": 1}).run(conn)
    table.get(2).update({"a": 1}).run(conn)
    assert take(feed, 1)[0]["new_val"] == {"id": 2, "n": 1, "a": 1}


@pytest.mark.parametrize(
    "shape",
    [
        lambda table: table.pluck("id", "a"),
        lambda table: table.without("b"),
        lambda table: table.map(lambda row: {"id": row["id"], "a": row["a"]}),
    ],
    ids=["pluck", "without", "map"],
)
def test_a_change_of_what_is_not_shown_is_no_event(conn: Any, table: Any, shape: Any) -> None:
    table.insert({"id": 1, "a": 1, "b": 1}).run(conn)
    feed = shape(table).changes(**EVERYTHING).run(conn)
    assert _initials(feed) == [{"id": 1, "a": 1}]
    table.get(1).update({"b": 2}).run(conn)
    table.get(1).update({"a": 2, "b": 3}).run(conn)
    assert take(feed, 1) == [
        {"old_val": {"id": 1, "a": 1}, "new_val": {"id": 1, "a": 2}, "type": "change"}
    ]


def test_terms_after_changes_work_on_the_elements(conn: Any, table: Any) -> None:
    feed = (
        table.changes(include_types=True)
        .filter({"type": "add"})
        .pluck("new_val")
        .limit(2)
        .run(conn)
    )
    table.insert({"id": 1}).run(conn)
    table.get(1).update({"a": 1}).run(conn)
    table.insert({"id": 2}).run(conn)
    assert list(feed) == [{"new_val": {"id": 1}}, {"new_val": {"id": 2}}]


def test_a_point_feed_follows_one_document(conn: Any, table: Any) -> None:
    table.insert([{"id": 1}, {"id": 2}]).run(conn)
    feed = table.get(1).changes(**EVERYTHING).run(conn)
    table.get(2).update({"a": 1}).run(conn)
    table.get(1).update({"a": 1}).run(conn)
    table.get(1).delete().run(conn)
    table.insert({"id": 1}).run(conn)
    assert take(feed, 6) == [
        {"state": "initializing", "type": "state"},
        {"new_val": {"id": 1}, "type": "initial"},
        {"state": "ready", "type": "state"},
        {"old_val": {"id": 1}, "new_val": {"id": 1, "a": 1}, "type": "change"},
        {"old_val": {"id": 1, "a": 1}, "new_val": None, "type": "remove"},
        {"old_val": None, "new_val": {"id": 1}, "type": "add"},
    ]


def test_a_point_feed_on_nothing_starts_with_null(conn: Any, table: Any) -> None:
    feed = table.get("none").changes(include_initial=True).run(conn)
    assert take(feed, 1) == [{"new_val": None}]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda table: table.limit(1), "first elements of an unordered stream"),
        (lambda table: table.order_by("a"), "on an eager stream"),
        (lambda _table: r.expr([1]), "on an eager stream"),
        (lambda table: table.concat_map(lambda _row: [1]), "after `concat_map`"),
        (lambda table: table.filter(lambda _row: r.uuid() == 1), "non-deterministic function"),
        (lambda _table: r.expr(1), "Cannot convert NUMBER to SEQUENCE"),
    ],
    ids=["limit", "order", "array", "concat_map", "chance", "number"],
)
def test_what_cannot_feed_is_refused(conn: Any, table: Any, shape: Any, message: str) -> None:
    with pytest.raises(ReqlQueryLogicError, match=message):
        shape(table).changes().run(conn)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda feed: feed.count(), "Cannot call a terminal"),
        (lambda feed: feed.delete(), "Expected type SELECTION but found SEQUENCE"),
        (lambda feed: r.expr([feed]), "Expected type DATUM but found SEQUENCE"),
    ],
    ids=["count", "delete", "data"],
)
def test_a_feed_cannot_be_used_as_something_finite(
    conn: Any, table: Any, use: Any, message: str
) -> None:
    with pytest.raises(ReqlQueryLogicError, match=message):
        use(table.changes()).run(conn)
