"""AMQP 0-9-1 frames of a published message, made by hand.

pika makes three objects and three small writes of every message. What differs from one message
to the next is a routing key, an id, an instant and a body; everything else is bytes that are
made once. The frames of a whole batch are joined into one write (docs/performance.md).
tests/unit/test_frames.py checks every byte against what pika itself makes.
"""

import struct
from collections.abc import Mapping
from typing import Final

from pika import data

from replicator.domain.envelope import STRUCTURED
from replicator.domain.model import Entry, Op
from replicator.domain.properties import CONTENT_TYPE, STRUCTURED_TYPE

Headers = Mapping[str, str | int]

_FRAME_END: Final = b"\xce"
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC, _PUBLISH = 60, 40
_MANDATORY: Final = 1
_FRAME_OVERHEAD: Final = 8  # type, channel, size and end

# Section 4.2.6.1: which properties follow, from bit 15 down, in the order of the bits.
_HAS_CONTENT_TYPE, _HAS_HEADERS, _HAS_DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_HAS_MESSAGE_ID, _HAS_TIMESTAMP, _HAS_TYPE = 1 << 7, 1 << 6, 1 << 5
_FLAGS: Final = (
    _HAS_CONTENT_TYPE | _HAS_DELIVERY_MODE | _HAS_MESSAGE_ID | _HAS_TIMESTAMP | _HAS_TYPE
)

_frame_start = struct.Struct(">BHI").pack
# A header frame up to its properties: type, channel, size; class, weight, body's size, flags.
_header_start = struct.Struct(">BHIHHQH").pack
_instant = struct.Struct(">Q").pack
_FIXED_BYTES: Final = 14 + 8  # of a header frame: the latter four fields, and the instant
_MAX_DIGITS: Final = 20  # of an entry's number


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def address(exchange: str, routing_key: str) -> bytes:
    """Return where a message goes, as its frames carry it: made once for many messages."""
    return _short(exchange) + _short(routing_key)


class PublishFrames:
    """Makes the frames of messages on one channel."""

    def __init__(
        self, *, channel: int, frame_max: int, outbox_id: str, is_persistent: bool
    ) -> None:
        """Bind to a channel; ``frame_max`` is what was negotiated, in bytes."""
        self._channel = channel
        self._chunk = frame_max - _FRAME_OVERHEAD
        delivery_mode = bytes((2 if is_persistent else 1,))
        # A body keeps the form in which it was captured, whatever the settings say now.
        self._starts = {
            is_event: (_short(STRUCTURED_TYPE if is_event else CONTENT_TYPE), delivery_mode)
            for is_event in (True, False)
        }
        self._plain_starts = {is_event: b"".join(both) for is_event, both in self._starts.items()}
        # By the number of digits: the length of the message id, and what it begins with.
        id_start = f"{outbox_id}-".encode()
        self._id_starts = [
            bytes((len(id_start) + digits,)) + id_start for digits in range(_MAX_DIGITS + 1)
        ]
        self._types = {op: _short(op.value) for op in Op}
        self._methods: dict[bytes, bytes] = {}

    def append(self, pieces: list[bytes], entry: Entry, to: bytes, headers: Headers | None) -> None:
        """Append the frames of one message, published as mandatory, to ``pieces``.

        ``to`` is what `address` made of the exchange and the routing key. Few calls and few
        pieces: this is done for each message, and what can be made once is in tables.
        """
        method = self._methods.get(to)
        if method is None:
            method = self._methods[to] = self._method(to)
        body = entry.body
        size, channel = len(body), self._channel
        is_event = body.startswith(STRUCTURED)
        if headers is None:
            flags, start = _FLAGS, self._plain_starts[is_event]
        else:
            content_type, delivery_mode = self._starts[is_event]
            flags, start = _FLAGS | _HAS_HEADERS, content_type + _table(headers) + delivery_mode
        number = b"%d" % entry.number
        id_start = self._id_starts[len(number)]
        kind = self._types[entry.op]
        length = _FIXED_BYTES + len(start) + len(id_start) + len(number) + len(kind)
        pieces += (
            method,
            _header_start(_HEADER, channel, length, _BASIC, 0, size, flags),
            start,
            id_start,
            number,
            _instant(entry.captured_at // 1_000_000),
            kind,
            _FRAME_END,
        )
        for first in range(0, size, self._chunk):
            part = body[first : first + self._chunk]
            pieces += (_frame_start(_BODY, channel, len(part)), part, _FRAME_END)

    def _method(self, to: bytes) -> bytes:
        payload = struct.pack(">HHH", _BASIC, _PUBLISH, 0) + to + bytes((_MANDATORY,))
        return _frame_start(_METHOD, self._channel, len(payload)) + payload + _FRAME_END


def _table(headers: Headers) -> bytes:
    pieces: list[bytes] = []
    data.encode_table(pieces, dict(headers))
    return b"".join(pieces)
