"""What leaves the database: what ``pluck`` and ``without`` do with paths, and what we do."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from rethinkdb import r

from replicator.domain.field_path import MAX_NAMES, FieldPath, FieldTree, parse_path, tree_of
from replicator.domain.model import TableName
from replicator.source.projection import FieldRules, projected
from tests.contract.feeds import EVERYTHING, is_ready, take, take_until

NAME = TableName("test", "things")
NUMBER = {"card": {"number": True}}
TIME = r.epoch_time(5)


def excluding(table: Any, *paths: str) -> Any:
    return projected(table, FieldRules(exclude=list(map(parse_path, paths))), "id", NAME)


def including(table: Any, *paths: str) -> Any:
    return projected(table, FieldRules(include=list(map(parse_path, paths))), "id", NAME)


def test_rethinkdb_itself_leaves_nothing_out_of_an_array_with_anything_but_objects(
    conn: Any,
) -> None:
    """This is why the paths of `exclude_fields` are not given to ``without``."""
    objects = [{"number": 1, "x": 2}, {"number": 3}]

    assert r.expr({"card": objects}).without(NUMBER).run(conn) == {"card": [{"x": 2}, {}]}
    for mixed in ([*objects, None], [*objects, 5], [*objects, [{"number": 7}]]):
        assert r.expr({"card": mixed}).without(NUMBER).run(conn) == {"card": mixed}
        assert r.expr({"card": mixed}).pluck(NUMBER).run(conn) == {}


def test_rethinkdb_heeds_only_the_last_of_two_patterns_that_begin_alike(conn: Any) -> None:
    card = r.expr({"card": {"number": 1, "x": 2, "y": 3}})

    assert card.pluck(NUMBER, {"card": "x"}).run(conn) == {"card": {"x": 2}}
    assert card.pluck({"card": ["number", "x"]}).run(conn) == {"card": {"number": 1, "x": 2}}
    assert card.without(NUMBER, {"card": "x"}).run(conn) == {"card": {"y": 3}}


@pytest.mark.parametrize(
    ("card", "left"),
    [
        ({"number": 1, "x": 2}, {"x": 2}),
        ({"number": {"a": [1]}}, {}),
        ({}, {}),
        ({"x": {"number": 1}}, {"x": {"number": 1}}),
        (None, None),
        (5, 5),
        ("number", "number"),
        (True, True),
        ([], []),
        ([{"number": 1, "x": 2}, {"number": 3}], [{"x": 2}, {}]),
        ([{"number": 1, "x": 2}, None, 5, "text", False], [{"x": 2}, None, 5, "text", False]),
        # What cannot be searched is left out whole.
        ([{"number": 1, "x": 2}, [{"number": 3}], TIME], [{"x": 2}]),
        (TIME, "nothing"),
        (r.binary(b"12"), "nothing"),
    ],
    ids=repr,
)
def test_an_excluded_field_is_found_wherever_it_can_be(
    conn: Any, table: Any, card: Any, left: Any
) -> None:
    table.insert({"id": 1, "card": card, "other": {"number": 1}}).run(conn)

    (seen,) = excluding(table, "card.number").run(conn)

    expected = {"id": 1, "other": {"number": 1}, "card": left}
    assert seen == {key: value for key, value in expected.items() if value != "nothing"}


def test_coordinates_that_are_excluded_take_their_place_with_them(conn: Any, table: Any) -> None:
    place = {"$reql_type$": "GEOMETRY", "type": "Point", "coordinates": [1, 2]}
    table.insert({"id": 1, "place": place, "old": {"place": place}}).run(conn)

    (seen,) = excluding(table, "place.coordinates", "old.place.coordinates").run(conn)

    assert seen == {"id": 1, "old": {}}


def test_paths_that_begin_alike_are_all_excluded(conn: Any, table: Any) -> None:
    cards = [{"number": 1, "owner": {"name": "a", "born": 2}, "x": 3}, {"owner": [{"name": "b"}]}]
    table.insert([{"id": 1, "cards": cards, "secret": 1}, {"id": 2}]).run(conn)

    seen = list(excluding(table, "cards.number", "secret", "cards.owner.name").run(conn))

    left = [{"owner": {"born": 2}, "x": 3}, {"owner": [{}]}]
    assert sorted(seen, key=lambda each: int(each["id"])) == [{"id": 1, "cards": left}, {"id": 2}]


def test_a_dot_that_is_escaped_is_part_of_the_name(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "card.number": 1, "card": {"number": 2, "a.b": 3, "c\\d": 4}}).run(conn)

    def left(*paths: str) -> Any:
        return excluding(table, *paths).nth(0).run(conn)

    assert left(r"card\.number") == {"id": 1, "card": {"number": 2, "a.b": 3, "c\\d": 4}}
    assert left("card.number")["card.number"] == 1
    assert left(r"card.a\.b", r"card.c\\d")["card"] == {"number": 2}
    assert including(table, r"card\.number", r"card.a\.b").nth(0).run(conn) == {
        "id": 1,
        "card.number": 1,
        "card": {"a.b": 3},
    }


def test_only_what_is_included_is_sent_and_the_primary_key(conn: Any, table: Any) -> None:
    cards = [{"number": 1, "x": 2, "y": 3}]
    documents = [
        {"id": 1, "card": cards[0], "other": 1},
        {"id": 2, "card": cards},
        {"id": 3, "card": [*cards, None]},
        {"id": 4, "card": 5},
        {"id": 5, "card": r.binary(b"12")},
    ]
    table.insert(documents).run(conn)

    seen = list(including(table, "card.x", "card.y", "id").run(conn))

    assert sorted(seen, key=lambda each: int(each["id"])) == [
        {"id": 1, "card": {"x": 2, "y": 3}},
        {"id": 2, "card": [{"x": 2, "y": 3}]},
        {"id": 3},
        {"id": 4},
        {"id": 5},
    ]


def test_a_feed_never_shows_what_is_excluded(conn: Any, table: Any) -> None:
    card = [{"number": 1, "x": 2.5, "a": TIME}, None, {"owner": {"name": "n", "é": "ü"}}]
    table.insert([{"id": 1, "card": card}, {"id": 2, "card": {"number": 1}}]).run(conn)
    query = excluding(table, "card.number", "card.owner.name")
    feed = query.changes(**EVERYTHING).run(conn)
    initial = [each for each in take_until(feed, is_ready) if each["type"] == "initial"]

    table.get(1).update({"card": [{**card[0], "number": 9}, *card[1:]]}).run(conn)  # not to be seen
    table.get(2).update({"card": {"number": 9, "x": 1}}).run(conn)
    table.get(2).delete().run(conn)

    assert sorted(each["new_val"]["id"] for each in initial) == [1, 2]
    assert take(feed, 2) == [
        {
            "old_val": {"id": 2, "card": {}},
            "new_val": {"id": 2, "card": {"x": 1}},
            "type": "change",
        },
        {"old_val": {"id": 2, "card": {"x": 1}}, "new_val": None, "type": "remove"},
    ]


def test_a_document_for_which_a_function_fails_is_not_in_the_feed(conn: Any, table: Any) -> None:
    """This is why no document may make the query of a table fail."""
    feed = table.map(lambda document: {"id": document["id"], "n": document["n"] + 1})
    opened = feed.changes().run(conn)
    table.insert([{"id": 1}]).run(conn)
    table.insert([{"id": 2, "n": 1}]).run(conn)
    table.get(2).replace({"id": 2}).run(conn)

    shown = {"id": 2, "n": 2}
    assert take(opened, 2) == [
        {"old_val": None, "new_val": shown},
        {"old_val": shown, "new_val": None},
    ]


@pytest.mark.parametrize("document", [{}, {"n0": 5}])
def test_the_longest_path_can_be_sent(conn: Any, table: Any, document: dict[str, Any]) -> None:
    path = ".".join(f"n{number}" for number in range(MAX_NAMES))
    table.insert({"id": 1, **document}).run(conn)
    deep: Any = 1
    for number in reversed(range(MAX_NAMES)):
        deep = {f"n{number}": deep}
    table.insert({"id": 2, **deep}).run(conn)

    for query in (excluding(table, path), including(table, path)):
        assert '"n15"' not in json.dumps(list(excluding(table, path).run(conn)))
        feed = query.changes(**EVERYTHING).run(conn)
        assert len([each for each in take_until(feed, is_ready) if "new_val" in each]) == 2


# Any document, against the rule in a few lines of Python.

NAMES = st.sampled_from(["a", "b", "a.b", "é"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)
MOMENT = {"$reql_type$": "TIME", "epoch_time": 5, "timezone": "+00:00"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab", max_size=2) | st.just(MOMENT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
LEFT_OUT: Any = object()


def left_out(value: Any, tree: FieldTree) -> Any:
    if not tree:
        return LEFT_OUT
    if isinstance(value, list):
        items = [LEFT_OUT if isinstance(item, list) else left_out(item, tree) for item in value]
        return [item for item in items if item is not LEFT_OUT]
    if not isinstance(value, dict):
        return value
    if value == MOMENT:
        return LEFT_OUT
    cut = {name: left_out(each, tree[name]) for name, each in value.items() if name in tree}
    return {name: each for name, each in (value | cut).items() if each is not LEFT_OUT}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.dictionaries(NAMES, VALUES), min_size=1, max_size=5), paths=PATHS)
def test_any_field_of_any_document_is_excluded(
    conn: Any, documents: list[dict[str, Any]], paths: list[FieldPath]
) -> None:
    try:
        tree = tree_of(paths)
    except ValueError:
        reject()
    query = projected(r.expr(documents), FieldRules(exclude=paths), "id", NAME)

    seen = query.run(conn, time_format="raw")

    assert seen == [left_out(document, tree) for document in documents]
