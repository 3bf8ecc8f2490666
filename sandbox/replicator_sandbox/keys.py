"""Primary keys: which values may be keys, and the order of their bytes.

The bytes of `key_bytes` sort as RethinkDB sorts keys, and two keys that RethinkDB treats as
one (1 and 1.0, a time in two zones) have the same bytes. The limit of 128 bytes counts this
encoding, which is why a string key may have 127 bytes. Source: a 2.4.4 server.
"""

import functools
import struct
from typing import Final

from replicator_sandbox.datum import PSEUDO_TYPE, Datum, pretty, pretty_start, type_name
from replicator_sandbox.pseudo_types import binary_bytes
from replicator_sandbox.reql_errors import ReqlError, logic, missing

MAX_KEY_BYTES = 128
LOWEST: Final = b""
HIGHEST: Final = b"\xff" * (MAX_KEY_BYTES + 1)
_SHOWN_BYTES = 20
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


def key_bytes(value: Datum) -> bytes:
    """Return the sortable bytes of a primary key.

    Raises:
        ReqlError: ``value`` cannot be a primary key, or it is too long.
    """
    if type(value) is str:
        encoded = _string(value)
    elif value is None or type_name(value) == "OBJECT":
        # Null is the one wrong type that the server reports as "non-existence".
        make = missing if value is None else logic
        raise make(
            "Primary keys must be either a number, string, bool, pseudotype or array "
            f"(got type {type_name(value)}):\n{pretty_start(value)}"
        )
    else:
        encoded = _item(value)
    if len(encoded) > MAX_KEY_BYTES:
        raise logic(f"Primary key too long (max {MAX_KEY_BYTES - 1} characters): {pretty(value)}")
    return encoded


def _item(value: Datum) -> bytes:
    if isinstance(value, bool):
        return b"Bt" if value else b"Bf"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return b"A" + b"".join(_item(item) + b"\0" for item in value)
    if value is None or (isinstance(value, dict) and PSEUDO_TYPE not in value):
        raise _not_in_array(value)
    if isinstance(value, dict):
        return _pseudo(value)
    return _number(float(value))


def _string(value: str) -> bytes:
    encoded = value.encode()
    offset = encoded.find(b"\0")
    if offset >= 0:
        raise logic(
            f'String "{_quoted(encoded[:_SHOWN_BYTES])}" (truncated) contains NULL byte at '
            f"offset {offset} in index key."
        )
    return b"S" + encoded


@functools.lru_cache(maxsize=4096)
def _number(value: float) -> bytes:
    value = value or 0.0  # -0.0 is the same key as 0
    (bits,) = struct.unpack(">Q", struct.pack(">d", value))
    bits = bits ^ _ALL if bits & _SIGN else bits ^ _SIGN
    return b"N%016x#%.20g" % (bits, value)


def _pseudo(value: dict[str, Datum]) -> bytes:
    if value[PSEUDO_TYPE] == "TIME":
        return b"PTIME:" + _number(float(value["epoch_time"]))
    if value[PSEUDO_TYPE] == "BINARY":
        content = binary_bytes(value)
        return b"PBINARY:" + content.replace(b"\x01", b"\x01\x02").replace(b"\0", b"\x01\x01")
    raise logic(f"Cannot use pseudotype {type_name(value)} as a primary or secondary key value .")


def _quoted(content: bytes) -> str:
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in content
    )


def _not_in_array(value: Datum) -> ReqlError:
    make = missing if value is None else logic
    return make(
        "Array keys can only contain numbers, strings, bools,  pseudotypes, or arrays "
        f"(got {pretty(value)} of type {type_name(value)})."
    )
