"""Pseudo-types: times and binaries in the one spelling that RethinkDB stores.

Times are rounded to milliseconds, with the zone as ``+hh:mm``; binaries are base64 in lines of 76
characters. Geometry is kept as it comes. Source: answers of a 2.4.4 server.
"""

import base64
import binascii
import math
import re

from replicator_sandbox.datum import PSEUDO_TYPE, Datum, encode, pretty, type_name
from replicator_sandbox.floats import number_from
from replicator_sandbox.reql_errors import logic, missing

_ZONE = re.compile(r"([+-])(\d\d):?(\d\d)?$")
_BASE64_LINE = 57  # bytes in 76 characters


def normalized(value: dict[str, Datum]) -> dict[str, Datum]:
    """Return the stored form of an object with a ``$reql_type$``.

    Raises:
        ReqlError: the pseudo-type is unknown or malformed.
    """
    kind = value[PSEUDO_TYPE]
    if kind == "TIME":
        return _time(value)
    if kind == "BINARY":
        return _binary(value)
    if kind == "GEOMETRY":
        if "type" not in value:
            raise missing("Field `type` not found in geometry object.")
        return value
    if kind == "LITERAL":
        return value
    if not isinstance(kind, str):
        raise logic(
            f"Error: Field `{PSEUDO_TYPE}` must be a string "
            f"(got `{pretty(kind)}` of type {type_name(kind)}):\n{pretty(value)}"
        )
    raise logic(f"Unknown {PSEUDO_TYPE} `PTYPE<{kind}>`.")


def time_at(epoch_seconds: float, zone: str = "+00:00") -> dict[str, Datum]:
    """Return the time ``epoch_seconds`` after 1970, rounded to milliseconds away from zero."""
    scaled = abs(epoch_seconds) * 1000
    rounded = math.copysign(math.floor(scaled + 0.5) / 1000, epoch_seconds)
    return {PSEUDO_TYPE: "TIME", "epoch_time": number_from(rounded), "timezone": zone}


def binary_bytes(value: dict[str, Datum]) -> bytes:
    """Return the bytes of a binary."""
    return base64.b64decode(value["data"])


def _time(value: dict[str, Datum]) -> dict[str, Datum]:
    for field in ("epoch_time", "timezone"):
        if field not in value:
            raise _bad_time(value, f"no field `{field}`")
    for field in value:
        if field not in (PSEUDO_TYPE, "epoch_time", "timezone"):
            raise _bad_time(value, f"unrecognized field `{field}`")
    seconds, zone = value["epoch_time"], value["timezone"]
    for field, wanted in (("epoch_time", "NUMBER"), ("timezone", "STRING")):
        item = value[field]
        if type_name(item) != wanted:
            raise _bad_time(
                value,
                f"field `{field}` must be a {wanted.lower()} "
                f"(got `{pretty(item)}` of type {type_name(item)})",
            )
    return time_at(seconds, _zone(value, zone))


def _zone(value: dict[str, Datum], zone: str) -> str:
    if zone == "Z":
        return "+00:00"
    match = _ZONE.match(zone)
    hours, minutes = (match[2], match[3] or "00") if match else ("99", "99")
    if match is None or int(hours) > 24 or int(minutes) > 59 or zone.startswith("-00:00"):
        text = encode(zone).decode()
        raise _bad_time(value, f"invalid timezone string `{text}`")
    return f"{match[1]}{hours}:{minutes}"


def _bad_time(value: dict[str, Datum], reason: str) -> Exception:
    return logic(f"Invalid time object constructed ({reason}):\n{pretty(value)}")


def _binary(value: dict[str, Datum]) -> dict[str, Datum]:
    if "data" not in value:
        raise logic("Invalid binary pseudotype: lacking `data` key.")
    for field in value:
        if field not in (PSEUDO_TYPE, "data"):
            raise logic(f"Invalid binary pseudotype: illegal `{field}` key.")
    text = value["data"]
    if not isinstance(text, str):
        raise logic(f"Expected type STRING but found {type_name(text)}.")
    return {PSEUDO_TYPE: "BINARY", "data": _base64_text(_base64_bytes(text))}


def _base64_bytes(text: str) -> bytes:
    compact = "".join(text.split())
    body = compact.rstrip("=")
    if "=" in body:
        raise logic("Invalid base64 format, data found after padding character '='.")
    for character in body:
        if not (character.isascii() and (character.isalnum() or character in "+/")):
            raise logic(f"Invalid base64 character found: '{character}'.")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error as err:
        raise logic(
            "Invalid base64 length: 1 character remaining, cannot decode a full byte."
        ) from err


def _base64_text(content: bytes) -> str:
    lines = (
        base64.b64encode(content[start : start + _BASE64_LINE]).decode()
        for start in range(0, len(content), _BASE64_LINE)
    )
    return "\r\n".join(lines)
