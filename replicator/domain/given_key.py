"""Reads a primary key that a person wrote: returns the texts that the outbox may have for it.

The outbox has a key as RethinkDB writes it: JSON with sorted members, without blanks, with the
fewest escapes. People write it as they like, and copy it as they find it.
"""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from replicator.domain.feed_element import normal_key

_MAX_WHOLE: Final = 2**53  # up to here RethinkDB writes whole numbers as digits alone
_BASE64_LINE: Final = 76
_SHORT_ESCAPES: Final = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r"}
_ESCAPES: Final = str.maketrans(
    {chr(code): f"\\u{code:04X}" for code in range(0x20)}
    | _SHORT_ESCAPES
    | {'"': r"\"", "\\": r"\\"}
)


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def key_texts(given: str) -> list[str]:
    """Return the texts of a key that is given as text or as JSON: ``abc``, ``"abc"`` and ``7``.

    What can be both is both: ``7`` is the number and the string. A number is searched as RethinkDB
    would write it, and as it was given: of a few fractions RethinkDB's digits are not the shortest.
    """
    texts = [_string(given)]
    try:
        value = json.loads(
            given, parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant
        )
        texts += [normal_key(_text(value, number)) for number in (_written, str)]
    except (ValueError, RecursionError):
        pass  # it is not JSON: only a string
    return list(dict.fromkeys(texts))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _text(value: Any, number: Callable[[_Number], str]) -> str:
    match value:
        case _Number():
            return number(value)
        case str():
            return _string(value)
        case list():
            return f"[{','.join(_text(each, number) for each in value)}]"
        case {"$reql_type$": "BINARY", "data": str(data)} if data != (made := _in_lines(data)):
            return _text(value | {"data": made}, number)
        case dict():
            members = (f"{_string(name)}:{_text(value[name], number)}" for name in sorted(value))
            return f"{{{','.join(members)}}}"
        case _:
            return json.dumps(value)


def _string(text: str) -> str:
    # Half a surrogate pair is kept as its escape, because databases do not accept it as such.
    return f'"{text.translate(_ESCAPES)}"'.encode("utf-8", "backslashreplace").decode()


def _in_lines(base64: str) -> str:
    compact = "".join(base64.split())
    starts = range(0, len(compact), _BASE64_LINE)
    return "\r\n".join(compact[start : start + _BASE64_LINE] for start in starts)


def _written(number: _Number) -> str:
    """Return a number as RethinkDB writes it (tests/contract/test_keys.py)."""
    real = float(number)
    if real.is_integer() and abs(real) <= _MAX_WHOLE:
        return str(int(real))
    if 1e-6 <= abs(real) < 1e21:
        digits = format(Decimal(repr(real)), "f")
        return digits if "." in digits else f"{digits}.0"
    return re.sub(r"e\+?(-?)0*", r"e\1", repr(real))
