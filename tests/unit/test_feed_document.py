"""Elements of a changefeed, raw, and the one text of a primary key."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.feed_element import (
    Change,
    decode_response,
    key_reader,
    normal_key,
    skipped_changes,
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def time_key(epoch: str, zone: str) -> str:
    return f'{{"$reql_type$":"TIME","epoch_time":{epoch},"timezone":"{zone}"}}'


@given(old=JSON_VALUES, new=JSON_VALUES)
def test_values_of_a_batch_are_the_servers_own_bytes(old: object, new: object) -> None:
    text = f'{{"t":3,"r":[{{"new_val":{compact(new)},"old_val":{compact(old)},"type":"change"}}]}}'

    response = decode_response(text)

    (change,) = response["r"]  # type: ignore[misc]
    assert response["t"] == 3
    assert bytes(change.old_val).decode() == compact(old)
    assert bytes(change.new_val).decode() == compact(new)
    assert change.type == "change"


def test_a_finished_sequence_is_a_batch_too() -> None:
    assert decode_response('{"t":2,"r":[{"state":"ready"}],"n":[1,5]}') == {
        "t": 2,
        "r": [Change(state="ready")],
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"t":18,"e":4100000,"r":["Changefeed aborted (unavailable)."],"b":[]}',
        '{"t":1,"r":[{"id":1}]}',
        '{"t":4,"r":[]}',
    ],
)
def test_any_other_response_is_decoded_plainly(text: str) -> None:
    assert decode_response(text) == json.loads(text)


# Deeper than the parser of any Python goes: it follows thousands of levels since Python 3.12.
DEEP = '{"a":' * 100_000 + "[]" + "}" * 100_000
HALF = '"\\udc4b hello"'


@pytest.mark.parametrize("odd", [DEEP, HALF, f'{{{HALF}:1,"b":"\\"}}]{{[\\\\"}}', '"\\ud83d"'])
def test_a_document_that_no_parser_takes_comes_as_it_is_with_its_batch(odd: str) -> None:
    odd = f'{{"id":{HALF},"x":{odd}}}'
    text = (
        '{"t":3,"r":[{"type":"state","state":"ready"},{"new_val":{"id":1},"type":"initial"},'
        f'{{"new_val":{odd},"old_val":null,"type":"add"}}, {{"error":"skipped"}}],"n":[]}}'
    )

    assert decode_response(text) == {
        "t": 3,
        "r": [
            Change(type="state", state="ready"),
            Change(new_val=msgspec.Raw(b'{"id":1}'), type="initial"),
            Change(msgspec.Raw(b"null"), msgspec.Raw(odd.encode()), "add"),
            Change(error="skipped"),
        ],
    }
    assert key_reader("id")(msgspec.Raw(odd.encode())) == HALF
    assert key_reader("\\")(msgspec.Raw(odd.replace('"id"', '"\\\\"').encode())) == HALF


def test_an_error_that_quotes_such_a_document_is_decoded_plainly() -> None:
    text = f'{{"t":18,"r":[{HALF}]}}'

    assert decode_response(text) == {"t": 18, "r": ["\udc4b hello"]}


def test_a_document_that_no_parser_takes_needs_its_key_too() -> None:
    with pytest.raises(msgspec.ValidationError, match="id"):
        key_reader("id")(msgspec.Raw(f'{{"name":{DEEP}}}'.encode()))
    with pytest.raises(msgspec.ValidationError, match="without 'id'"):
        key_reader("id")(msgspec.Raw(b'{"id":'))


@pytest.mark.parametrize(
    "text",
    [
        *("", "no json", '{"t":3,"r":[', f'{{"t":3,"r":[{HALF}]}}'),
        *(f'{{"t":1,"r":[{DEEP}]}}', f'{{"t":1,"r":["x",{DEEP}]}}', DEEP),
    ],
)
def test_what_is_no_response_raises_a_decode_error(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_response(text)


@pytest.mark.parametrize(
    ("error", "count"),
    [
        ("Changefeed cache over array size limit, skipped 202 elements.", 202),
        ("something else", 0),
    ],
)
def test_the_count_of_skipped_changes_is_read_from_the_error(error: str, count: int) -> None:
    assert skipped_changes(error) == count


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("-0.0", "0"),
        ("-0", "0"),
        ("0", "0"),
        ("-0.5", "-0.5"),
        ("-0.05", "-0.05"),
        ("1e-07", "1e-07"),
        ("-10", "-10"),
        ("[-0.0,-0,-0.1]", "[0,0,-0.1]"),
        ('"-0.0"', '"-0.0"'),
        ('["a-0","\\"-0.0"]', '["a-0","\\"-0.0"]'),
        ('"TIME"', '"TIME"'),
        (time_key("1", "-05:30"), time_key("1", "+00:00")),
        (time_key("-0.0", "Z"), time_key("0", "+00:00")),
        (f"[{time_key('-1.5', '+01:00')},-0.0]", f"[{time_key('-1.5', '+00:00')},0]"),
    ],
)
def test_keys_that_the_server_takes_for_the_same_have_one_text(text: str, normal: str) -> None:
    assert normal_key(text) == normal


KEYS = st.recursive(
    st.text(max_size=8)
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(key=KEYS)
def test_normalising_keeps_the_value_and_is_safe_to_repeat(key: object) -> None:
    normal = normal_key(compact(key))

    assert json.loads(normal) == key
    assert normal_key(normal) == normal


@given(text=st.text('-0.TIME\\"{}$,:1[]é', max_size=30))
def test_a_text_key_is_never_changed_whatever_is_in_it(text: str) -> None:
    assert normal_key(compact(text)) == compact(text)


@given(
    primary_key=st.text(max_size=6),
    key=KEYS,
    rest=st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=3),
)
def test_the_key_is_read_out_of_any_document(
    primary_key: str, key: object, rest: dict[str, object]
) -> None:
    document = msgspec.Raw(compact({**rest, primary_key: key}).encode())

    assert key_reader(primary_key)(document) == normal_key(compact(key))


def test_a_document_without_its_key_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        key_reader("id")(msgspec.Raw(b'{"name":1}'))
