"""Keys that people write; that RethinkDB's texts are found is in tests/contract/test_keys.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.given_key import key_texts

_KEYS = st.recursive(
    st.text() | st.integers(-(2**53), 2**53) | st.booleans(), st.lists, max_leaves=5
)


@given(_KEYS)
def test_every_spelling_of_a_key_has_its_one_text(key: Any) -> None:
    compact = json.dumps(key, separators=(",", ":"), ensure_ascii=False)
    spellings = [compact, json.dumps(key), json.dumps(key, indent=2), f" {compact} "]
    expected = key_texts(compact)[-1]

    assert all(expected in key_texts(spelling) for spelling in spellings)


def test_what_can_be_text_and_json_is_both() -> None:
    assert key_texts("7") == ['"7"', "7"]
    assert key_texts("true") == ['"true"', "true"]
    assert key_texts('"7"') == [r'"\"7\""', '"7"']


@pytest.mark.parametrize("text", ["abc", "NaN", "[NaN]", "-Infinity", "{", "[" * 100_000, ""])
def test_what_is_not_json_is_text(text: str) -> None:
    assert key_texts(text) == [json.dumps(text)]


def test_half_a_surrogate_pair_is_its_escape() -> None:
    assert key_texts("\udc4b x")[0] == r'"\udc4b x"'
    assert key_texts(r'["\udc4b"]')[1] == r'["\udc4b"]'


def test_a_number_that_no_double_holds_is_still_text() -> None:
    assert key_texts("1e999")[0] == '"1e999"'
    assert key_texts("9" * 5000)[0] == f'"{"9" * 5000}"'


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("-1.50", "-1.5"),
        ("1.2e-4", "0.00012"),
        ("1.25e-07", "1.25e-7"),
        ("1e+22", "1e22"),
        ("1.2345678901234568e20", "123456789012345680000.0"),
        ("7.0", "7"),
    ],
)
def test_a_number_is_written_as_rethinkdb_writes_it(spelling: str, text: str) -> None:
    assert key_texts(spelling)[1] == text


def test_a_time_is_found_with_its_members_in_any_order_and_in_any_zone() -> None:
    members = {"timezone": "+05:30", "$reql_type$": "TIME", "epoch_time": 1.5}

    assert key_texts(json.dumps(members))[1] == (
        '{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"+00:00"}'
    )


def test_a_binary_is_found_with_and_without_line_ends() -> None:
    one_line, in_lines = "A" * 80, "A" * 76 + "\r\n" + "A" * 4
    text = f'{{"$reql_type$":"BINARY","data":{json.dumps(in_lines)}}}'

    for data in (one_line, in_lines):
        assert key_texts(json.dumps({"data": data, "$reql_type$": "BINARY"}))[1] == text
