"""Message ids, headers, bodies and feed states: the small decisions."""

import datetime as dt
import json
import re
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.envelope import NULL, change_envelope, key_document
from replicator.domain.feed_state import TRANSITIONS, FeedEvent, FeedState, next_state
from replicator.domain.model import Entry, Op, Origin, TableName
from replicator.domain.properties import (
    compact_headers,
    entry_number,
    full_headers,
    message_id,
    outbox_id,
)


def entry(origin: Origin = Origin.FEED) -> Entry:
    return Entry(7, 1, '"k"', Op.UPDATE, origin, b"{}", 1_700_000_000_123_456)


@given(seed=st.binary(min_size=16, max_size=16))
def test_an_outbox_id_has_eight_characters_and_starts_a_message_id(seed: bytes) -> None:
    outbox = outbox_id(seed)

    assert re.fullmatch(r"[a-z2-7]{8}", outbox)
    assert entry_number(message_id(outbox, 10**18)) == 10**18
    assert len(message_id(outbox, 10**19 - 1)) == 28


def test_outbox_ids_of_two_seeds_differ() -> None:
    assert outbox_id(uuid.UUID(int=0).bytes) == "aaaaaaaa"
    assert outbox_id(b"\xff" * 16) == "77777777"


def test_a_text_without_a_number_is_no_message_id() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        entry_number("abc-")


def test_compact_headers_say_only_what_is_not_a_live_change() -> None:
    assert compact_headers(entry()) is None
    assert compact_headers(entry(Origin.RESYNC)) == {"x-replicator-origin": "resync"}
    assert compact_headers(entry(Origin.SNAPSHOT)) == {"x-replicator-origin": "snapshot"}


def test_full_headers_say_everything() -> None:
    assert full_headers(entry(), TableName("db", "t")) == {
        "x-replicator-db": "db",
        "x-replicator-table": "t",
        "x-replicator-op": "update",
        "x-replicator-key": '"k"',
        "x-replicator-origin": "feed",
        "x-replicator-entry": 7,
        "x-replicator-captured-at": "2023-11-14T22:13:20.123456Z",
    }


@given(captured=st.integers(0, 253402300799_999999))
def test_the_instant_in_the_headers_is_exact_to_the_microsecond(captured: int) -> None:
    text = full_headers(
        Entry(1, 1, "1", Op.CREATE, Origin.FEED, b"", captured), TableName("d", "t")
    )["x-replicator-captured-at"]

    instant = dt.datetime.fromisoformat(str(text))
    epoch = dt.datetime.fromtimestamp(0, dt.UTC)
    assert (instant - epoch) // dt.timedelta(microseconds=1) == captured


def test_the_change_envelope_has_exactly_two_keys() -> None:
    body = change_envelope(NULL, msgspec.Raw(b'{"id":1}'))

    assert body == b'{"old_val":null,"new_val":{"id":1}}'
    assert list(json.loads(body)) == ["old_val", "new_val"]


@given(primary_key=st.text(max_size=5), key=st.text(max_size=5))
def test_a_deleted_document_is_told_by_its_key(primary_key: str, key: str) -> None:
    document = key_document(primary_key, json.dumps(key, ensure_ascii=False))

    assert json.loads(document) == {primary_key: key}


@pytest.mark.parametrize("state", FeedState)
@pytest.mark.parametrize("event", FeedEvent)
def test_an_event_that_a_state_does_not_know_is_refused(state: FeedState, event: FeedEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match=f"{state} cannot be {event}"):
            next_state(state, event)


@pytest.mark.parametrize("state", FeedState)
def test_a_feed_can_be_lost_in_every_state(state: FeedState) -> None:
    assert next_state(state, FeedEvent.LOST) is FeedState.LOST


def test_a_table_has_its_full_name() -> None:
    assert str(TableName("db", "t")) == "db.t"
