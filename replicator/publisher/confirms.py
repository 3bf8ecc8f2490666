"""Confirms, read from the bytes that come in: the short way past pika's objects and callbacks.

Nearly all that RabbitMQ sends while it takes messages is ``basic.ack``, a frame of 21 bytes. pika
makes four objects of one and looks through its callbacks twice, which takes longer than what
follows from it (docs/performance.md). Whatever else comes goes pika's way, with all that comes
behind it; tests/unit/test_confirms.py checks every kind of frame against what pika reads.
"""

import struct
from collections.abc import Callable
from typing import Any, Final

import pika
from pika import spec

# AMQP 0-9-1, section 4.2.3: type, channel and size of a frame, class and method. Of an ack follow
# its delivery tag, a byte whose lowest bit says ``multiple``, and the end of the frame.
_start_of_ack = struct.Struct(">BHIHH").pack
_rest_of_ack = struct.Struct(">QBB").unpack_from
_METHOD, _ACK_BYTES, _BASIC, _ACK = 1, 13, 60, 80
_START_BYTES, _FRAME_BYTES = 11, 21
_FRAME_END: Final = 0xCE
_MOST_READ: Final = 64 * 1024


class AcksOfChannel:
    """Reads the acks of one channel."""

    def __init__(self, channel: int) -> None:
        """Bind to a channel that confirms."""
        self._start = _start_of_ack(_METHOD, channel, _ACK_BYTES, _BASIC, _ACK)

    def read(self, data: bytes) -> tuple[list[spec.Basic.Ack], bytes]:
        """Return the acks that these bytes begin with, and what follows them.

        Their first byte must be that of a frame.
        """
        acks: list[spec.Basic.Ack] = []
        at = 0
        while data.startswith(self._start, at) and at + _FRAME_BYTES <= len(data):
            tag, bits, end = _rest_of_ack(data, at + _START_BYTES)
            if end != _FRAME_END:
                break  # for pika to complain of
            acks.append(spec.Basic.Ack(tag, bool(bits & 1)))
            at += _FRAME_BYTES
        return acks, data[at:]


class ConfirmingConnection(pika.SelectConnection):
    """pika's connection; reads with few calls, and takes acks the short way once told whose."""

    # pika's own, of which its type stubs know nothing.
    _frame_buffer: bytes
    bytes_received: int
    frames_received: int
    params: pika.ConnectionParameters

    _acks: AcksOfChannel | None = None
    _on_ack: Callable[[spec.Basic.Ack], object]

    def take_acks(self, channel: int, on_ack: Callable[[spec.Basic.Ack], object]) -> None:
        """Give the acks of this channel to ``on_ack``, mostly without pika."""
        self._acks, self._on_ack = AcksOfChannel(channel), on_ack

    def _proto_connection_made(self, transport: Any) -> None:
        # pika reads until nothing is left, which takes a second call, and one that fails. The loop
        # would tell it of what is left; but not of what TLS has taken from the socket already.
        if self.params.ssl_options is None:
            transport._MAX_RECV_BYTES = _MOST_READ  # noqa: SLF001 - it cannot be told
            transport._MAX_CONSUME_BYTES = 1  # noqa: SLF001
        super()._proto_connection_made(transport)  # type: ignore[misc]

    def _on_data_available(self, data_in: bytes) -> None:
        if self._acks is None:
            super()._on_data_available(data_in)  # type: ignore[misc]
            return
        # Order matters: pika keeps the beginning of a frame, which this may be the rest of.
        acks, rest = self._acks.read(self._frame_buffer + data_in)
        self._frame_buffer = b""
        # By the bytes, pika's heartbeat sees that the broker is alive.
        self.bytes_received += _FRAME_BYTES * len(acks)
        self.frames_received += len(acks)
        for ack in acks:
            self._on_ack(ack)
        if rest:
            super()._on_data_available(rest)  # type: ignore[misc]
