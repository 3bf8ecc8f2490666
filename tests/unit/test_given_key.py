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
