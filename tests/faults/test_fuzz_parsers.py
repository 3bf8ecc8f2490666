"""Anything at all into everything that parses: it is understood, or refused in the way it says.

A parser may raise what its docstring names and nothing else. What it accepts must mean the same
when it is written and read again. tests/faults/fuzzing.py has what is made up.
"""

import json
import threading
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.config import RabbitMQUrl, RethinkDBUrl
from replicator.config.values import (
    check_table_name,
    parse_duration,
    parse_host_port,
    parse_listen,
    parse_size,
)
from replicator.domain import deep_json
from replicator.domain.envelope import key_document
from replicator.domain.feed_element import Change, decode_response, key_reader, skipped_changes
from replicator.domain.properties import entry_number, message_id
from replicator.domain.routing import RoutingKey
from replicator.errors import OutboxUnusable
from replicator.outbox.opening import open_database
from replicator.outbox.sqlite.database import SqliteDatabase
from replicator.source.changefeed import _Decoder, _Undecodable
from replicator.source.driver import Payload
from tests.faults.fuzzing import (
    ADDRESSES,
    ANY_TEXT,
    ANY_VALUE,
    JSON,
    OUTBOXES,
    URLS,
    fuzz,
    mutated,
    written,
)

# What comes from RethinkDB.

RESPONSES = st.builds(
    lambda kind, elements, is_ascii: written({"t": kind, "r": elements}, is_ascii=is_ascii),
    st.sampled_from([1, 2, 3, 4, 5, 16, 17, 18, "3", None]),
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "old_val": JSON,
                "new_val": JSON,
                "type": st.sampled_from(["add", "change", "remove", "initial", "state"]) | JSON,
                "state": st.sampled_from(["initializing", "ready"]) | JSON,
                "error": JSON,
            },
        )
        | JSON,
        max_size=4,
    )
    | JSON,
    st.booleans(),
)


@fuzz
@given(sent=st.binary(max_size=200) | RESPONSES.map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_no_bytes_of_a_server_break_the_driver_s_decoder(sent: bytes) -> None:
    decoded = _Decoder().decode(Payload(sent).decode())

    assert isinstance(decoded, dict)
    if decoded.get("t") in (2, 3):
        assert all(isinstance(each, Change | _Undecodable) for each in decoded["r"])


@fuzz
@given(text=mutated(RESPONSES, '{}[]",:\\'))
def test_a_broken_response_is_an_error_and_never_a_wrong_change(text: str) -> None:
    try:
        decoded = decode_response(text)
    except (msgspec.DecodeError, UnicodeError):
        return
    for each in decoded["r"] if decoded.get("t") in (2, 3) else ():  # type: ignore[attr-defined]
        assert isinstance(each, Change)
        assert isinstance(each.type, str)
        assert isinstance(each.error, str)


@fuzz
@given(old=JSON, new=JSON, more=JSON, is_ascii=st.booleans())
def test_values_with_half_pairs_come_out_as_they_went_in(
    old: object, new: object, more: object, *, is_ascii: bool
) -> None:
    sent = written(
        {"t": 3, "r": [{"old_val": old, "new_val": new}, {"new_val": more}]}, is_ascii=is_ascii
    )
    text = Payload(sent.encode("utf-8", "surrogatepass")).decode()

    first, second = decode_response(text)["r"]  # type: ignore[misc]

    # Two halves side by side, each sent as bytes, are one character once they are escapes.
    whole = json.loads(json.dumps([old, new, more]))
    assert [json.loads(bytes(v)) for v in (first.old_val, first.new_val, second.new_val)] == whole


@fuzz
@given(name=ANY_TEXT, key=JSON, rest=st.dictionaries(ANY_TEXT, JSON, max_size=3))
def test_a_key_is_read_from_under_any_name_and_written_under_it_again(
    name: str, key: object, rest: dict[str, object]
) -> None:
    name, key, rest = json.loads(json.dumps([name, key, rest]))
    read = key_reader(name)
    raw = msgspec.Raw(json.dumps({**rest, name: key}).encode())

    text = read(raw)

    assert json.loads(text) == key
    assert json.loads(key_document(name, text)) == {name: key}
    rest.pop(name, None)
    with pytest.raises(msgspec.ValidationError):
        read(msgspec.Raw(json.dumps(rest).encode()))


@fuzz
@given(
    name=ANY_TEXT,
    raw=st.binary(max_size=60)
    | mutated(JSON.map(json.dumps), '{}[]",:').map(lambda text: text.encode("utf-8", "replace")),
)
def test_what_is_no_document_has_no_key(name: str, raw: bytes) -> None:
    try:
        text = key_reader(name)(msgspec.Raw(raw))
    except (msgspec.ValidationError, UnicodeDecodeError):
        return
    assert text


@fuzz
@given(value=JSON, depth=st.integers(0, 3000))
def test_parts_are_cut_at_any_depth(value: object, depth: int) -> None:
    inner = json.dumps(value)
    nested = "[" * depth + inner + "]" * depth

    parts = deep_json.members(f'{{"a": {nested} ,"b":{inner}}}'.encode())

    assert {name: part.decode() for name, part in parts.items()} == {"a": nested, "b": inner}
    assert deep_json.items(f"[{nested}, {inner}]".encode()) == [nested.encode(), inner.encode()]


@fuzz
@given(
    raw=st.binary(max_size=50)
    | mutated(JSON.map(json.dumps), '{}[]",:\\').map(lambda text: text.encode("utf-8", "replace"))
)
def test_cutting_anything_raises_only_what_it_says(raw: bytes) -> None:
    for cut in (deep_json.members, deep_json.items):
        try:
            parts = cut(raw)
        except ValueError:
            continue
        assert all(parts.values() if isinstance(parts, dict) else parts)


@fuzz
@given(text=ANY_TEXT)
def test_any_error_text_of_a_feed_has_a_count(text: str) -> None:
    assert skipped_changes(text) >= 0


@fuzz
@given(text=ANY_TEXT, number=st.integers(0, 2**63))
def test_message_ids_are_read_back(text: str, number: int) -> None:
    assert entry_number(message_id("abcdefgh", number)) == number
    try:
        assert isinstance(entry_number(text), int)
    except ValueError:
        assert not text.rpartition("-")[2].isascii() or not text.rpartition("-")[2].isdecimal()


# Values of settings.


def refusal(parse: Callable[[], object]) -> str | None:
    """Return what a parser says of what it does not take; None when it takes it."""
    try:
        parse()
    except ValueError as refused:
        return str(refused)
    return None


def is_port(port: int, lowest: int = 1) -> bool:
    return lowest <= port <= 65535


def assert_can_be_resolved(host: str) -> None:
    host.encode("idna")  # what the socket module does first, and what it raises is no OSError


@fuzz
@given(text=mutated(URLS, ":/@%[],.?#") | ANY_TEXT)
@pytest.mark.parametrize("kind", [RethinkDBUrl, RabbitMQUrl])
def test_a_url_is_read_and_written_or_refused(
    kind: type[RethinkDBUrl] | type[RabbitMQUrl], text: str
) -> None:
    said = refusal(lambda: kind.parse(text))
    if said is not None:
        assert 0 < len(said) < 200
        return
    url = kind.parse(text)
    assert kind.parse(url.reveal()) == url
    assert url.password is None or len(url.password) < 4 or url.password not in repr(url)
    for host, port in url.hosts:
        assert is_port(port)
        assert_can_be_resolved(host)


@fuzz
@given(text=mutated(ADDRESSES, ":.[]0") | ANY_TEXT)
def test_an_address_is_one_that_can_be_used(text: str) -> None:
    for lowest, parse in (
        (1, lambda: parse_host_port(text, default_port=7)),
        (0, lambda: parse_listen(text)),
    ):
        said = refusal(parse)
        assert said is None or 0 < len(said) < 250
        if said is None and (address := parse()) is not None:
            assert is_port(address.port, lowest)
            assert_can_be_resolved(address.host)
            assert parse_host_port(str(address), default_port=None, lowest_port=lowest) == address


@fuzz
@given(value=ANY_VALUE)
def test_sizes_and_durations_are_bounded_or_refused_in_words(value: object) -> None:
    for parse in (parse_size, parse_duration):
        said = refusal(lambda parse=parse: parse(value))
        assert said is None or "must be a" in said
        if said is None and isinstance(parsed := parse(value), int):
            assert 1 <= parsed < 2**63
            assert parse_size(str(parsed)) == parsed
        elif said is None:
            assert 0 <= parse_duration(value).total_seconds() < threading.TIMEOUT_MAX


@fuzz
@given(template=mutated(st.sampled_from(["{table}.{op}", "{db}", "x", "{{}}"]), "{}!:.[]"))
def test_a_routing_key_is_filled_in_or_refused(template: str) -> None:
    try:
        key = RoutingKey(template)
    except ValueError:
        return
    filled = key.format("database", "things", "update")
    assert filled == template.format(db="database", table="things", op="update")


@fuzz
@given(text=mutated(st.just("db.table"), "._-*/ é") | ANY_TEXT)
def test_a_table_name_is_two_names_of_plain_letters(text: str) -> None:
    try:
        name = check_table_name(text)
    except ValueError:
        return
    database, _, table = name.partition(".")
    assert all(part.replace("_", "a").replace("-", "a").isalnum() for part in (database, table))
    assert name.isascii()


@fuzz
@given(url=mutated(OUTBOXES, ":/@?#+.") | ANY_TEXT)
def test_an_outbox_url_names_a_file_or_is_refused(url: str) -> None:
    try:
        database = open_database(url)
    except OutboxUnusable as err:
        refused = err
    else:
        refused = None
    if refused is not None:
        assert refused.hint
        return
    assert isinstance(database, SqliteDatabase)
    assert "\0" not in database.place
