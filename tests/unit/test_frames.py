"""Frames made by hand are byte for byte what pika makes."""

from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import channel as pika_channel
from pika import frame, spec

from replicator.domain.model import Entry, Op, Origin, TableName
from replicator.domain.properties import compact_headers, full_headers
from replicator.publisher import driver
from replicator.publisher.frames import PublishFrames, address

OUTBOX = "abcdefg2"
NAME = TableName("db", "tablé")
SMALL_FRAMES = 4096


def marshaled_by_pika(
    entry: Entry,
    *,
    number: int,
    frame_max: int,
    exchange: str,
    key: str,
    headers: Any,
    is_persistent: bool,
) -> bytes:
    properties = pika.BasicProperties(
        content_type="application/json",
        headers=headers,
        delivery_mode=2 if is_persistent else 1,
        message_id=f"{OUTBOX}-{entry.number}",
        timestamp=entry.captured_at // 1_000_000,
        type=entry.op.value,
    )
    method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
    pieces = [frame.Method(number, method).marshal()]
    pieces.append(frame.Header(number, len(entry.body), properties).marshal())
    # As pika's own Connection cuts a body: the frame without its header and its end.
    limit = frame_max - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE
    pieces += [
        frame.Body(number, entry.body[start : start + limit]).marshal()
        for start in range(0, len(entry.body), limit)
    ]
    return b"".join(pieces)


ENTRIES = st.builds(
    Entry,
    number=st.integers(1, 2**63 - 1),
    feed_id=st.just(1),
    key=st.text(max_size=127),
    op=st.sampled_from(Op),
    origin=st.sampled_from(Origin),
    body=st.binary(max_size=50)
    | st.integers(SMALL_FRAMES - 20, SMALL_FRAMES + 20).map(lambda size: b"y" * size)
    | st.integers(0, 5 * SMALL_FRAMES).map(lambda size: b"z" * size),
    captured_at=st.integers(0, 253402300799_000000),
)


@settings(max_examples=300)
@given(
    entry=ENTRIES,
    number=st.integers(1, 65535),
    exchange=st.text("abcé.-", max_size=100),
    key=st.text("abcé.-", max_size=100),
    has_full_headers=st.booleans(),
    is_persistent=st.booleans(),
)
def test_every_byte_is_what_pika_would_send(
    entry: Entry,
    number: int,
    exchange: str,
    key: str,
    has_full_headers: bool,  # noqa: FBT001 -- hypothesis names arguments
    is_persistent: bool,  # noqa: FBT001
) -> None:
    headers = full_headers(entry, NAME) if has_full_headers else compact_headers(entry)
    frames = PublishFrames(
        channel=number,
        frame_max=SMALL_FRAMES,
        outbox_id=OUTBOX,
        is_persistent=is_persistent,
    )
    pieces: list[bytes] = []
    frames.append(pieces, entry, address(exchange, key), headers)
    frames.append(
        pieces, entry, address(exchange, key), headers
    )  # the second time from what was kept

    expected = marshaled_by_pika(
        entry,
        number=number,
        frame_max=SMALL_FRAMES,
        exchange=exchange,
        key=key,
        headers=headers,
        is_persistent=is_persistent,
    )
    assert b"".join(pieces) == expected * 2


class Wire(pika.connection.Connection):
    """pika's connection, with a list in the place of a socket."""

    def __init__(self) -> None:
        super().__init__(None, None, None, None, internal_connection_workflow=False)
        self.sent: list[bytes] = []
        self._set_connection_state(self.CONNECTION_OPEN)
        self.params.frame_max = SMALL_FRAMES
        self._body_max_length = self._get_body_frame_max_length()

    def _adapter_connect_stream(self) -> None: ...
    def _adapter_disconnect_stream(self) -> None: ...
    def _adapter_call_later(self, *_args: object) -> None: ...
    def _adapter_remove_timeout(self, *_args: object) -> None: ...
    def _adapter_add_callback_threadsafe(self, *_args: object) -> None: ...
    def _adapter_emit_data(self, data: bytes) -> None:
        self.sent.append(data)


def test_pika_publishes_with_the_same_frames() -> None:
    """The comparison above is with pika's own publish, not only with its marshalling."""
    connection = Wire()
    channel = pika_channel.Channel(connection, 5, lambda _channel: None)
    channel._set_state(channel.OPEN)
    entry = Entry(7, 1, "1", Op.UPDATE, Origin.FEED, b"b" * 10_000, 1_700_000_000_000_000)
    channel.basic_publish(
        "rethinkdb",
        "t.update",
        entry.body,
        pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=f"{OUTBOX}-7",
            timestamp=1_700_000_000,
            type="update",
        ),
        mandatory=True,
    )
    pieces: list[bytes] = []
    PublishFrames(
        channel=5,
        frame_max=SMALL_FRAMES,
        outbox_id=OUTBOX,
        is_persistent=True,
    ).append(pieces, entry, address("rethinkdb", "t.update"), None)

    assert b"".join(pieces) == b"".join(connection.sent)


def test_frames_are_sent_as_they_are_and_counted() -> None:
    """pika's heartbeat looks at the count: it would end a connection that seems to send nothing."""
    connection: Any = Wire()
    driver.send(connection, b"frames of many messages")

    assert connection.sent == [b"frames of many messages"]
    assert connection.bytes_sent == len(connection.sent[0])


@pytest.mark.parametrize("number", [1, 10**18, 10**19 - 1])
@pytest.mark.parametrize("op", Op)
def test_the_properties_of_a_live_change_stay_within_64_bytes(number: int, op: Op) -> None:
    entry = Entry(number, 1, "k" * 127, op, Origin.FEED, b"{}", 1_700_000_000_000_000)
    pieces: list[bytes] = []
    PublishFrames(channel=1, frame_max=131072, outbox_id=OUTBOX, is_persistent=True).append(
        pieces, entry, address("rethinkdb", "t.update"), compact_headers(entry)
    )
    used, method = frame.decode_frame(b"".join(pieces))
    assert isinstance(method, frame.Method)
    _, header = frame.decode_frame(b"".join(pieces)[used:])

    assert isinstance(header, frame.Header)
    encoded = b"".join(header.properties.encode())
    assert len(encoded) <= 64


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"old_val":null,"new_val":{"specversion":"1.0"}}', "application/json"),
        (b'{"before":null,"after":{},"op":"c"}', "application/json"),
        (b'{"specversion":"1.0","id":"a-1"}', "application/cloudevents+json"),
        (b"", "application/json"),
    ],
)
def test_the_content_type_is_that_of_the_form_in_which_a_body_was_captured(
    body: bytes, content_type: str
) -> None:
    entry = Entry(1, 1, "1", Op.CREATE, Origin.FEED, body, 1_700_000_000_000_000)
    pieces: list[bytes] = []
    PublishFrames(channel=1, frame_max=131072, outbox_id=OUTBOX, is_persistent=True).append(
        pieces, entry, address("rethinkdb", "t.create"), None
    )
    used, _ = frame.decode_frame(b"".join(pieces))
    _, header = frame.decode_frame(b"".join(pieces)[used:])

    assert isinstance(header, frame.Header)
    assert header.properties.content_type == content_type
