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
from replicator.domain.message import CONTENT_TYPE, STRUCTURED_TYPE
from replicator.domain.model import Entry, Op

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
_content_start = struct.Struct(">HHQH").pack
_instant = struct.Struct(">Q").pack


def _short(text: str | bytes) -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
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
        self._id_start = f"{outbox_id}-"
        self._content_type = _short(CONTENT_TYPE)
        self._structured_type = _short(STRUCTURED_TYPE)
        self._delivery_mode = bytes((2 if is_persistent else 1,))
        self._types = {op: _short(op.value) for op in Op}
        self._methods: dict[bytes, bytes] = {}

    def append(
        self,
        pieces: list[bytes],
        entry: Entry,
        to: bytes,
        headers: Mapping[str, str | int] | None,
    ) -> None:
        """Append the frames of one message, published as mandatory, to ``pieces``.

        ``to`` is what `address` made of the exchange and the routing key.
        """
        method = self._methods.get(to)
        if method is None:
            method = self._methods[to] = self._method(to)
        body = entry.body
        properties = b"".join(
            (
                # A body keeps the form in which it was captured, whatever the settings say now.
                self._structured_type if body.startswith(STRUCTURED) else self._content_type,
                b"" if headers is None else _table(headers),
                self._delivery_mode,
                _short(f"{self._id_start}{entry.number}"),
                _instant(entry.captured_at // 1_000_000),
                self._types[entry.op],
            )
        )
        flags = _FLAGS if headers is None else _FLAGS | _HAS_HEADERS
        channel = self._channel
        pieces += (
            method,
            _frame_start(_HEADER, channel, 14 + len(properties)),
            _content_start(_BASIC, 0, len(body), flags),
            properties,
            _FRAME_END,
        )
        size, chunk = len(body), self._chunk
        if 0 < size <= chunk:
            pieces += (_frame_start(_BODY, channel, size), body, _FRAME_END)
            return
        for start in range(0, size, chunk):
            part = body[start : start + chunk]
            pieces += (_frame_start(_BODY, channel, len(part)), part, _FRAME_END)

    def _method(self, to: bytes) -> bytes:
        payload = struct.pack(">HHH", _BASIC, _PUBLISH, 0) + to + bytes((_MANDATORY,))
        return _frame_start(_METHOD, self._channel, len(payload)) + payload + _FRAME_END


def _table(headers: Mapping[str, str | int]) -> bytes:
    pieces: list[bytes] = []
    data.encode_table(pieces, dict(headers))
    return b"".join(pieces)
