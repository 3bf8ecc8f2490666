"""Data as RethinkDB keeps it: types, order, equality and text.

A datum is None, a bool, a number (`floats.Number`), a str, a list or a dict. Pseudo-types
stay dicts with ``$reql_type$``. `encode` gives the one text that a value has: sorted keys, no
blanks, and only necessary escapes. Everything stored or sent goes through it.
"""

import json
from typing import Any

import msgspec

from replicator_sandbox import floats
from replicator_sandbox.reql_errors import logic

Datum = Any
"""None | bool | int | Double | str | list[Datum] | dict[str, Datum]; JSON has no better type."""

PSEUDO_TYPE = "$reql_type$"
_PRINT_LIMIT = 300

_encoder = msgspec.json.Encoder(order="deterministic", enc_hook=floats.encode_hook)
_decoder = msgspec.json.Decoder(float_hook=floats.number_from_text)


def encode(value: Datum) -> bytes:
    """Return the text of ``value`` in bytes; it is the same for equal values."""
    text = _encoder.encode(value)
    if b"\\u00" in text:
        return _with_upper_case_escapes(text)
    return text


def decode(text: bytes) -> Datum:
    """Return the datum that ``text`` spells."""
    return _decoder.decode(text)


def type_name(value: Datum) -> str:
    """Return the name that RethinkDB gives to the type of ``value``; it orders types too."""
    if isinstance(value, dict):
        pseudo = value.get(PSEUDO_TYPE)
        return f"PTYPE<{pseudo}>" if isinstance(pseudo, str) else "OBJECT"
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, str):
        return "STRING"
    if isinstance(value, list):
        return "ARRAY"
    return "NUMBER"


def compare(a: Datum, b: Datum) -> int:
    """Return -1, 0 or 1: RethinkDB's order, in which different types are ordered by name."""
    name, other_name = type_name(a), type_name(b)
    if name != other_name:
        return _sign(name, other_name)
    if name == "ARRAY":
        return _compare_arrays(a, b)
    if name == "PTYPE<TIME>":
        return _sign(a["epoch_time"], b["epoch_time"])
    if isinstance(a, dict):
        return _compare_objects(a, b)
    # Strings are ordered by code points, which is the order of their UTF-8 bytes.
    return 0 if a is None else _sign(a, b)


def equal(a: Datum, b: Datum) -> bool:
    """Return whether RethinkDB treats both as one value: times of one instant, 0 and -0.0."""
    return compare(a, b) == 0


def pretty(value: Datum) -> str:
    """Return the indented text that error messages show."""
    return _pretty(value, 0)


def pretty_start(value: Datum) -> str:
    """Return the beginning of `pretty`, as messages show a wrong value."""
    text = _pretty(value, 0)
    return text if len(text) <= _PRINT_LIMIT else text[: _PRINT_LIMIT - 3] + "..."


def merged(base: Datum, addition: Datum) -> Datum:
    """Return ``base`` with ``addition`` on top; objects merge field by field."""
    if not _is_plain_object(addition):
        return _without_literals(addition)
    result = dict(base) if _is_plain_object(base) else {}
    for field, value in addition.items():
        if _is_literal(value):
            if "value" in value:
                result[field] = value["value"]
            else:
                result.pop(field, None)
        elif _is_plain_object(value):
            result[field] = merged(result.get(field), value)
        else:
            result[field] = value
    return result


def refuse_literals(value: Datum) -> None:
    """Raise where ``r.literal`` stands outside of a merge or an update."""
    if _is_literal(value):
        raise logic(
            "Stray literal keyword found: literal is only legal inside of the object passed to "
            "merge or update and cannot nest inside other literals."
        )
    if isinstance(value, dict):
        for item in value.values():
            refuse_literals(item)
    elif isinstance(value, list):
        for item in value:
            refuse_literals(item)


def _is_plain_object(value: Datum) -> bool:
    return isinstance(value, dict) and PSEUDO_TYPE not in value


def _is_literal(value: Datum) -> bool:
    return isinstance(value, dict) and value.get(PSEUDO_TYPE) == "LITERAL"


def _without_literals(value: Datum) -> Datum:
    return value.get("value") if _is_literal(value) else value


def _sign(a: Any, b: Any) -> int:
    return int(a > b) - int(a < b)


def _compare_arrays(a: list[Datum], b: list[Datum]) -> int:
    for left, right in zip(a, b, strict=False):
        if order := compare(left, right):
            return order
    return _sign(len(a), len(b))


def _compare_objects(a: dict[str, Datum], b: dict[str, Datum]) -> int:
    fields_a, fields_b = sorted(a), sorted(b)
    for left, right in zip(fields_a, fields_b, strict=False):
        if left != right:
            return -1 if left < right else 1
        if order := compare(a[left], b[right]):
            return order
    return _sign(len(fields_a), len(fields_b))


def _with_upper_case_escapes(text: bytes) -> bytes:
    """Write the hex digits of control characters in upper case, as RethinkDB does."""
    parts = text.split(b"\\u00")
    # If the number of backslashes before the split is odd, the last one is itself escaped, and what
    # follows is plain text, not an escape.
    for index in range(1, len(parts)):
        before = parts[index - 1]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes % 2 == 0:
            parts[index] = parts[index][:2].upper() + parts[index][2:]
    return b"\\u00".join(parts)


def _pretty(value: Datum, depth: int) -> str:
    inner, outer = "\n" + "\t" * (depth + 1), "\n" + "\t" * depth
    if isinstance(value, dict) and value:
        fields = (
            f"{json.dumps(field, ensure_ascii=False)}:\t{_pretty(value[field], depth + 1)}"
            for field in sorted(value)
        )
        return "{" + ",".join(inner + field for field in fields) + outer + "}"
    if isinstance(value, list) and value:
        return "[" + ",".join(inner + _pretty(item, depth + 1) for item in value) + outer + "]"
    return encode(value).decode()
