"""The one adapter of pika's private parts: four things that it has no public way to do.

- To send frames that are already made. `basic_publish` makes several objects and three system calls
  of each message: nearly as much processor time as all else that is done with a change
  (docs/performance.md).
- To close the socket of a connection whose orderly close has no answer. Left open, it would keep
  the fence, and with it the next connection, out until the heartbeat ends it at the broker.
- To end a blocking connection that waits for an answer: pika waits for ever, and runs its own
  timers only when the answer is there.
- To read headers of any value. pika fails on a time after the year 9999, and neither that message
  nor any after it could be read; of a number it cuts the fraction off.

tests/unit/test_frames.py, tests/integration/test_publisher_connection.py and
tests/integration/test_cli_listen.py fail when pika changes one of them.
"""

import struct
from typing import Any, Final

import pika
from pika import data, exceptions

_decode_value: Final = data.decode_value
_NUMBERS: Final = {b"T": struct.Struct(">Q"), b"f": struct.Struct(">f"), b"d": struct.Struct(">d")}


def send(connection: pika.SelectConnection, frames: bytes) -> None:
    """Send frames in one write; the connection must be open. On its loop's thread only.

    It is what pika's own publish ends in, and keeps the byte count that heartbeats look at.
    """
    connection._output_marshaled_frames([frames])  # type: ignore[attr-defined]  # noqa: SLF001


def close_socket(connection: pika.SelectConnection) -> None:
    """Bring an open connection down, as pika's heartbeat does; `on_close_callback` follows."""
    connection._adapter_disconnect_stream()  # type: ignore[attr-defined]  # noqa: SLF001


def give_up_after(connection: pika.BlockingConnection, seconds: float) -> None:
    """End a connection that is still open in ``seconds``: whoever waits for it gets an error."""
    error = exceptions.AMQPConnectionError(f"no answer in {seconds:g} seconds")
    inner: Any = connection._impl  # type: ignore[attr-defined]  # noqa: SLF001
    inner._adapter_call_later(seconds, lambda: inner._terminate_stream(error))  # noqa: SLF001


def read_any_header() -> None:
    """Let pika read headers of any value in this process; safe to repeat.

    A time that Python does not have is the number of its seconds.
    """
    data.decode_value = _decode_any_value


def _decode_any_value(encoded: bytes, offset: int) -> tuple[Any, int]:
    kind = encoded[offset : offset + 1]
    if kind == b"T":
        try:
            return _decode_value(encoded, offset)
        except (ValueError, OverflowError, OSError):
            pass  # read below as a number
    if kind not in _NUMBERS:
        return _decode_value(encoded, offset)
    number = _NUMBERS[kind]
    (value,) = number.unpack_from(encoded, offset + 1)
    return value, offset + 1 + number.size
