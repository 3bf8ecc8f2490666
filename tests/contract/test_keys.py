"""What may be a primary key, and which keys are the same."""

from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlNonExistenceError, ReqlQueryLogicError


def test_a_string_key_may_have_127_bytes(conn: Any, table: Any) -> None:
    assert table.insert({"id": "x" * 127}).run(conn)["inserted"] == 1
    refused = table.insert([{"id": "x" * 128}, {"id": "é" * 64}]).run(conn)
    assert refused["errors"] == 2
    assert refused["first_error"].startswith("Primary key too long (max 127 characters): ")
    with pytest.raises(ReqlQueryLogicError, match="Primary key too long"):
        table.get("x" * 128).run(conn)


_NO_KEY = "Primary keys must be either a number, string, bool, pseudotype or array "
_NO_ITEM = "Array keys can only contain numbers, strings, bools,  pseudotypes, or arrays "


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, f"{_NO_KEY}(got type NULL):\nnull"),
        ({"a": 1}, f'{_NO_KEY}(got type OBJECT):\n{{\n\t"a":\t1\n}}'),
        ([1, None], f"{_NO_ITEM}(got null of type NULL)."),
        (
            "a\0b",
            'String "a\\x00b" (truncated) contains NULL byte at offset 1 in index key.',
        ),
    ],
)
def test_what_is_no_key_is_refused(conn: Any, table: Any, key: Any, message: str) -> None:
    result = table.insert({"id": key}).run(conn)
    assert (result["errors"], result["first_error"]) == (1, message)


def test_null_does_not_exist_as_a_key(conn: Any, table: Any) -> None:
    with pytest.raises(ReqlNonExistenceError, match="Primary keys must be"):
        table.get(None).run(conn)
    with pytest.raises(ReqlNonExistenceError, match="Keys cannot be NULL"):
        table.get_all(None).run(conn)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 1.0),
        (-0.0, 0),
        (r.epoch_time(5), r.epoch_time(5).in_timezone("+01:00")),
        ([1, "a"], [1.0, "a"]),
    ],
)
def test_some_spellings_are_one_key(conn: Any, table: Any, first: Any, second: Any) -> None:
    table.insert({"id": first}).run(conn)
    result = table.insert({"id": second}).run(conn)
    assert result["errors"] == 1
    assert result["first_error"].startswith("Duplicate primary key `id`:")


def test_keys_of_every_type_sort_by_type_then_value(conn: Any, table: Any) -> None:
    keys = [
        [1, 2],
        [1, 10],
        ["a"],
        False,
        True,
        -1.5,
        0,
        2,
        10,
        r.binary(b"x"),
        r.epoch_time(7),
        "",
        "A",
        "a",
        "é",
    ]
    inserted = table.insert([{"id": key, "n": n} for n, key in enumerate(keys)]).run(conn)
    assert inserted["inserted"] == len(keys)
    rows = table.order_by(index="id").run(conn)
    assert [row["n"] for row in rows] == list(range(len(keys)))
    rows = table.order_by("id").run(conn)
    assert [row["n"] for row in rows] == list(range(len(keys)))
    for number, key in enumerate(keys):
        assert table.get(key).run(conn)["n"] == number
