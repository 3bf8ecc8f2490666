"""The sandbox's data: numbers, text and order."""

import functools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicator_sandbox.datum import compare, decode, encode, merged, pretty
from replicator_sandbox.floats import Double, double_text, number_from
from replicator_sandbox.keys import MAX_KEY_BYTES, key_bytes
from replicator_sandbox.pseudo_types import time_at
from replicator_sandbox.reql_errors import ReqlError

_numbers = st.floats(allow_nan=False, allow_infinity=False).map(number_from)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_scalars = st.none() | st.booleans() | _numbers | _texts
_data = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
_keys = st.recursive(
    st.booleans()
    | st.floats(-1e6, 1e6, allow_nan=False).map(number_from)
    | st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=6)
    | st.floats(0, 1e9).map(time_at),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=1,
)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_reads_back_as_that_number(value: float) -> None:
    number = number_from(value)
    text = double_text(number) if isinstance(number, Double) else str(number)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400])
def test_what_is_not_finite_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match=r"inf|nan"):
        number_from(value)


@given(_data)
def test_encoding_is_stable_under_decoding(value: Any) -> None:
    text = encode(value)
    assert encode(decode(text)) == text
    assert compare(decode(text), value) == 0


@given(_data, _data, _data)
def test_the_order_of_data_is_total(a: Any, b: Any, c: Any) -> None:
    assert compare(a, b) == -compare(b, a)
    low, middle, high = sorted((a, b, c), key=functools.cmp_to_key(compare))
    assert compare(low, middle) <= 0
    assert compare(middle, high) <= 0
    assert compare(low, high) <= 0


@given(_keys, _keys)
def test_keys_sort_by_bytes_as_by_value(a: Any, b: Any) -> None:
    left, right = key_bytes(a), key_bytes(b)
    order = compare(a, b)
    assert (left == right) == (order == 0)
    assert (left < right) == (order < 0)


def test_a_key_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert len(key_bytes("x" * 127)) == MAX_KEY_BYTES
    with pytest.raises(ReqlError, match="max 127 characters"):
        key_bytes("x" * 128)


def test_merging_goes_into_objects_but_not_into_pseudo_types() -> None:
    instant = time_at(1)
    assert merged({"a": {"x": 1}, "t": instant}, {"a": {"y": 2}, "t": {"b": 1}}) == {
        "a": {"x": 1, "y": 2},
        "t": {"b": 1},
    }
    assert merged({"t": {"b": 1}}, {"t": instant}) == {"t": instant}


def test_errors_show_documents_indented_by_tabs() -> None:
    assert pretty({"b": [1, {}], "a": "é"}) == '{\n\t"a":\t"é",\n\t"b":\t[\n\t\t1,\n\t\t{}\n\t]\n}'
