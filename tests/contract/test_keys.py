"""What may be a primary key, which keys are the same, and how a person may write one."""

import base64
import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlNonExistenceError, ReqlQueryLogicError

from replicator.domain.feed_element import key_reader
from replicator.domain.given_key import key_texts
from tests.contract.raw import RawConnection


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


class _Response(msgspec.Struct):
    r: list[msgspec.Raw]


_AT = dt.datetime(2020, 1, 1, 12, 30, 0, 123000, dt.timezone(dt.timedelta(hours=5.5)))
_SAID_AT = {"timezone": "Z", "$reql_type$": "TIME", "epoch_time": _AT.timestamp()}


def _said_bytes(content: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(content).decode(), "$reql_type$": "BINARY"}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("a", "a"),
        ("a", '"a"'),
        ("ü/ 'x'", "\"\\u00fc\\/ 'x'\""),
        ('a"\\\n\t\x1f\x7f', 'a"\\\n\t\x1f\x7f'),
        ("7", "7"),
        ("[1]", "[1]"),
        (7, "7"),
        (7, "7.0"),
        (7, " 0.7e1 "),
        (0, "-0.0"),
        (-1.5, "-1.50"),
        (2**53, "9007199254740992"),
        (2**60, "1152921504606846976"),
        (1e21, "1e+21"),
        (-1.25e300, "-1.25E+300"),
        (1e-7, "0.0000001"),
        (1.25e-7, "1.25e-07"),
        (1e-6, "1e-6"),
        (0.00012, "1.2e-4"),
        (123456789012345680000, "1.2345678901234568e20"),
        (True, "true"),
        (["a", 1, "ü"], '["a", 1, "ü"]'),
        (["a", [1.0, []], False], ' [ "a" , [ 1.0 , [ ] ] , false ] '),
        (_AT, json.dumps(_SAID_AT)),
        ([_AT, 1], json.dumps([_SAID_AT, 1])),
        (b"x", json.dumps(_said_bytes(b"x"))),
        (bytes(range(90)), json.dumps(_said_bytes(bytes(range(90))))),
        ([bytes(range(90))], json.dumps([_said_bytes(bytes(range(90)))])),
    ],
)
def test_a_key_is_found_as_people_write_it(
    table: Any, conn: Any, raw: RawConnection, key: Any, given: str
) -> None:
    assert table.insert({"id": key}).run(conn)["inserted"] == 1
    (document,) = json_raw(raw.query(table.nth(0), time_format="raw", binary_format="raw"))

    assert key_reader("id")(document) in key_texts(given)


def json_raw(response: bytes) -> list[msgspec.Raw]:
    """Return the results of a response as they stand."""
    return msgspec.json.decode(response, type=_Response).r


def test_a_fraction_is_found_as_the_server_writes_it(
    table: Any, conn: Any, raw: RawConnection
) -> None:
    table.insert({"id": [0.1 + 0.2, " x"]}).run(conn)
    (document,) = json_raw(raw.query(table.nth(0)))
    written = key_reader("id")(document)

    assert written in key_texts(written.replace(",", ", "))
