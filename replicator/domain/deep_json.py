"""Cuts JSON into its parts without recursion, for the documents that msgspec refuses.

RethinkDB stores documents nested deeper than any parser of Python goes, and strings with half
a surrogate pair (`"👋".slice(1)` in JavaScript makes one), whose escape msgspec does not take.
Such a document is valid, so its parts are cut out as they stand. This is 20 times slower than
msgspec, and it trusts nested values to be JSON: it only matches their brackets.
"""

import json
import re
from typing import Final

# Possessive, so that a long string needs no memory to go back in.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},"]', re.DOTALL)
_CLOSING: Final = {b"{": b"}", b"[": b"]"}
_SPACE: Final = b" \t\r\n"


def members(raw: bytes) -> dict[str, bytes]:
    """Return the members of an object, their values as they stand; of equal names the last counts.

    Raises:
        ValueError: it is not an object.
    """
    found: dict[str, bytes] = {}
    for part in _parts(raw, b"{"):
        name = _TOKEN.match(part)
        value = part[name.end() :].lstrip(_SPACE) if name else b""
        if name is None or not value.startswith(b":") or not value[1:].strip(_SPACE):
            raise ValueError("a member of an object has no name or no value")
        found[json.loads(name.group())] = value[1:].strip(_SPACE)
    return found


def items(raw: bytes) -> list[bytes]:
    """Return the items of an array as they stand.

    Raises:
        ValueError: it is not an array.
    """
    return _parts(raw, b"[")


def _parts(raw: bytes, opening: bytes) -> list[bytes]:
    """Return what stands between the commas of the outermost brackets."""
    raw = raw.strip(_SPACE)
    if not raw.startswith(opening):
        raise ValueError(f"the JSON does not begin with {opening.decode()}")
    ends = _ends(raw)
    if ends[-1] != len(raw) - 1:
        raise ValueError("the JSON goes on after its end")
    starts = [1, *(end + 1 for end in ends)]
    parts = [raw[start:end].strip(_SPACE) for start, end in zip(starts, ends, strict=False)]
    if parts == [b""]:
        return []
    if not all(parts):
        raise ValueError("the JSON has a comma too many")
    return parts


def _ends(raw: bytes) -> list[int]:
    """Return the places of the commas in the outermost brackets, and of the closing bracket."""
    ends: list[int] = []
    awaited: list[bytes] = []  # the brackets that close what is open
    for match in _TOKEN.finditer(raw):
        token = match.group()
        if token in _CLOSING:
            awaited.append(_CLOSING[token])
        elif token == b"," and len(awaited) == 1:
            ends.append(match.start())
        elif token in b"]}":
            if awaited.pop() != token:
                break
            if not awaited:
                return [*ends, match.start()]
        elif token == b'"':
            break
    raise ValueError("the JSON is malformed")
