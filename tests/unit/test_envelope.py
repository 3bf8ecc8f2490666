"""The envelopes beside ``change``: what others' programs make of them."""

import datetime as dt
import json
from typing import Any, NamedTuple

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.envelope import (
    NULL,
    STRUCTURED,
    change_envelope,
    envelope,
    new_document,
)
from replicator.domain.model import Entry, Op, Origin, TableName
from tests.support.debezium import SCHEMA

NAME = TableName("shop", "orders_2")
OUTBOX = "abcdefg2"
CAPTURED_AT = 1_700_000_000_123_456
# What a JSON library would write in another way: each byte of it has to stay.
ODD = (
    b'{"id":"a\\u0000\\ud83d","n":1.0000000000000001e+300,"big":123456789012345678901234567890,'
    b'"t":{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"+01:00"},"u":"\xc3\xa9","neg":-0}'
)


class Case(NamedTuple):
    op: Op
    origin: Origin
    old: bytes
    new: bytes


CASES = [
    Case(Op.CREATE, Origin.FEED, NULL, ODD),
    Case(Op.CREATE, Origin.SNAPSHOT, NULL, ODD),
    Case(Op.CREATE, Origin.RESYNC, NULL, ODD),
    Case(Op.UPDATE, Origin.FEED, ODD, b'{"id":1}'),
    Case(Op.UPDATE, Origin.RESYNC, NULL, ODD),
    Case(Op.DELETE, Origin.FEED, ODD, NULL),
    Case(Op.DELETE, Origin.RESYNC, b'{"id":1}', NULL),
]


def body_of(form: str, case: Case, *, key: str = '"a"', number: int = 7) -> bytes:
    """Make a body as a capture does."""
    made = envelope(form, OUTBOX, NAME, "1.2.3")
    core = made.wrap(case.old, case.new)
    entry = Entry(number, 1, key, case.op, case.origin, core, CAPTURED_AT)
    return core if made.seal is None else made.seal(entry)


def attributes_of(body: bytes) -> tuple[dict[str, Any], Any]:
    """Read a CloudEvent with the official package, which validates it."""
    event = JSONFormat().read(None, body)
    return event.get_attributes(), event.get_data()


@pytest.mark.parametrize("case", CASES)
def test_the_default_envelope_is_made_in_one_step(case: Case) -> None:
    assert envelope("change", OUTBOX, NAME, "1").seal is None
    assert body_of("change", case) == change_envelope(case.old, case.new)


@pytest.mark.parametrize("case", CASES)
def test_a_cloud_event_is_accepted_by_the_official_package(case: Case) -> None:
    attributes, found = attributes_of(body_of("cloudevents", case))

    assert attributes == {
        "specversion": "1.0",
        "id": f"{OUTBOX}-7",
        "source": "/rethinkdb/shop/orders_2",
        "type": f"replicator.document.{case.op.value}",
        "subject": '"a"',
        "time": dt.datetime(2023, 11, 14, 22, 13, 20, 123456, dt.UTC),
        "datacontenttype": "application/json",
        "origin": case.origin.value,
    }
    assert found == json.loads(change_envelope(case.old, case.new))


@pytest.mark.parametrize("case", CASES)
def test_a_debezium_event_is_as_its_documentation_says(case: Case) -> None:
    event = json.loads(body_of("debezium", case))

    jsonschema.validate(event, SCHEMA)
    assert (event["before"], event["after"]) == (json.loads(case.old), json.loads(case.new))
    is_first = case.origin is Origin.SNAPSHOT
    assert event["op"] == ("r" if is_first else case.op.value[0])
    assert event["source"] == {
        "version": "1.2.3",
        "connector": "rethinkdb",
        "name": OUTBOX,
        "db": "shop",
        "table": "orders_2",
        "ts_ms": 1_700_000_000_123,
        "snapshot": "true" if is_first else "false",
        "sequence": '["7"]',
        "key": '"a"',
        "origin": case.origin.value,
    }
    assert event["ts_ms"] == 1_700_000_000_123


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "x"},
        {"op": "r"},
        {"after": None},
        {"before": {}},
        {"ts_ms": "1"},
        {"more": 1},
        {"source": {}},
    ],
)
def test_the_schema_refuses_what_debezium_would_not_send(wrong: dict[str, Any]) -> None:
    event = json.loads(body_of("debezium", CASES[0])) | wrong

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event, SCHEMA)


@pytest.mark.parametrize("form", ["cloudevents", "debezium"])
@pytest.mark.parametrize("case", CASES)
def test_documents_are_the_bytes_that_rethinkdb_sent(form: str, case: Case) -> None:
    body = body_of(form, case)

    assert case.old in body
    assert case.new in body


@pytest.mark.parametrize("form", ["cloudevents", "debezium"])
@given(key=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_primary_key_is_carried_as_its_json_text(form: str, key: Any) -> None:
    text = json.dumps(key)
    event = json.loads(body_of(form, CASES[0], key=text))

    assert (event["subject"] if form == "cloudevents" else event["source"]["key"]) == text


def test_only_a_cloud_event_begins_as_one() -> None:
    bodies = {
        form: body_of(form, CASES[0]).startswith(STRUCTURED)
        for form in ("change", "cloudevents", "debezium")
    }

    assert bodies == {"change": False, "cloudevents": True, "debezium": False}


def test_an_envelope_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="avro"):
        envelope("avro", OUTBOX, NAME, "1")


# Read back.

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize("form", ["change", "cloudevents", "debezium"])
@pytest.mark.parametrize("case", [*CASES, Case(Op.CREATE, Origin.FEED, NULL, DEEP)])
def test_the_new_document_is_read_from_every_envelope(form: str, case: Case) -> None:
    assert new_document(body_of(form, case)) == case.new


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"[]", b"{}", b'{"old_val":1}', b'{"specversion":"1.0"}', b'{"before":1}']
)
def test_what_is_not_such_a_body_is_not_guessed(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|new document"):
        new_document(body)
