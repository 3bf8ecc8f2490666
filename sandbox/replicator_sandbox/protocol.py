"""The wire format: numbers, frames and responses.

Source: RethinkDB's protocol definition (ql2.proto) and the responses of a 2.4.4 server. A
query is an 8-byte token and a 4-byte length, both little-endian, then JSON; a response has the
same frame. Documents are copied into responses as their stored bytes.
"""

import enum
import struct
from collections.abc import Sequence

import msgspec

FRAME = struct.Struct("<QL")
MAX_QUERY_BYTES = 128 * 1024 * 1024


class QueryType(enum.IntEnum):
    """What a client asks for."""

    START = 1
    CONTINUE = 2
    STOP = 3
    NOREPLY_WAIT = 4
    SERVER_INFO = 5


class ResponseType(enum.IntEnum):
    """What a response is."""

    ATOM = 1
    SEQUENCE = 2
    PARTIAL = 3
    WAIT_COMPLETE = 4
    SERVER_INFO = 5
    CLIENT_ERROR = 16
    COMPILE_ERROR = 17
    RUNTIME_ERROR = 18


class ErrorType(enum.IntEnum):
    """The kinds of runtime errors; each has an exception class in the drivers."""

    INTERNAL = 1000000
    RESOURCE_LIMIT = 2000000
    QUERY_LOGIC = 3000000
    NON_EXISTENCE = 3100000
    OP_FAILED = 4100000
    OP_INDETERMINATE = 4200000
    USER = 5000000
    PERMISSION = 6000000


class Note(enum.IntEnum):
    """What a response says about its stream."""

    SEQUENCE_FEED = 1
    ATOM_FEED = 2
    INCLUDES_STATES = 5


def atom(value: bytes) -> bytes:
    """Return the response that carries one value."""
    return b'{"t":1,"r":[%b]}' % value


def batch(elements: Sequence[bytes], *, is_last: bool, notes: Sequence[int] = ()) -> bytes:
    """Return one batch of a stream; ``is_last`` ends it."""
    return b'{"t":%d,"r":[%b],"n":[%b]}' % (
        ResponseType.SEQUENCE if is_last else ResponseType.PARTIAL,
        b",".join(elements),
        b",".join(b"%d" % note for note in notes),
    )


def wait_complete() -> bytes:
    """Return the answer to NOREPLY_WAIT."""
    return b'{"t":4,"r":[]}'


def server_info(value: bytes) -> bytes:
    """Return the answer to SERVER_INFO."""
    return b'{"t":5,"r":[%b]}' % value


def failure(
    response_type: ResponseType,
    error_type: ErrorType | None,
    message: str,
    frames: Sequence[int | str],
) -> bytes:
    """Return an error response; only runtime errors have a type."""
    kind = b"" if error_type is None else b'"e":%d,' % error_type
    return b'{"t":%d,%b"r":[%b],"b":%b}' % (
        response_type,
        kind,
        msgspec.json.encode(message),
        msgspec.json.encode(frames),
    )
