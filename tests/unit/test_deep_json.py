"""The parts of JSON that no parser takes, and of any other."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.deep_json import items, members

TEXTS = st.text(st.characters(codec=None), max_size=8) | st.text('\\"{}[],: é\udc4b', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FORMS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 2}]


@given(value=st.dictionaries(TEXTS, VALUES, max_size=5), form=st.sampled_from(FORMS))
def test_the_members_of_an_object_are_those_that_a_parser_finds(
    value: dict[str, object], form: dict[str, Any]
) -> None:
    raw = json.dumps(value, **form).encode()

    assert {name: json.loads(part) for name, part in members(raw).items()} == value


@given(value=st.lists(VALUES, max_size=5), form=st.sampled_from(FORMS))
def test_the_items_of_an_array_are_those_that_a_parser_finds(
    value: list[object], form: dict[str, Any]
) -> None:
    raw = json.dumps(value, ensure_ascii=False, **form).encode("utf-8", "surrogatepass")

    assert [json.loads(part) for part in items(raw)] == value


def test_depth_and_length_do_not_matter() -> None:
    deep = b'{"a":[' * 100_000 + b"]}" * 100_000
    long = b'"' + b"\\u0000x" * 1_000_000 + b'"'

    assert members(b'{"a":%b,"b":%b}' % (deep, long)) == {"a": deep, "b": long}
    assert items(b"[%b,%b]" % (deep, long)) == [deep, long]


def test_the_last_of_two_members_of_one_name_counts() -> None:
    assert members(b'{"a":1,"\\u0061":2}') == {"a": b"2"}


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"[]", b"1", b"{", b'{"a":1', b'{"a":1}}', b'{"a":1}{}', b'{"a":[}]', b'{"a":1]'),
        *(b'{"a"}', b'{"a":}', b'{"a":1,}', b'{,"a":1}', b"{1:2}", b"{[]:1}", b'{"a":"}', b'{"a'),
        *(b'{"a"1}', b'{"\n":1}'),
    ],
)
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        members(raw)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[", b"[1", b"[1,]", b"[,]", b"[,1]", b"[1]]", b'["]']
)
def test_what_is_no_array_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        items(raw)
