"""What a changefeed emits, and how to read it.

A feed with ``include_types`` and ``include_states`` emits changes, initial values, two states
and, when the server dropped changes, an error document without a type. Bytes are never parsed
further than needed: values stay raw JSON, so that no document can break a cursor and what is
published is what RethinkDB sent.
"""

import functools
import json
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from replicator.domain import deep_json

NOTHING: Final = msgspec.Raw(b"")


class Change(msgspec.Struct, gc=False):
    """One element of a changefeed, with its values as raw JSON.

    Absent values are empty: an initial value has no ``old_val`` at all, while a live create has
    ``null``. In a body both are ``null``.
    """

    old_val: msgspec.Raw = NOTHING
    new_val: msgspec.Raw = NOTHING
    type: str = ""
    state: str = ""
    error: str = ""


class _Response(msgspec.Struct, gc=False):
    """A response of RethinkDB's wire protocol that carries a batch of a feed."""

    t: int
    r: list[Change]


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_change = msgspec.json.Decoder(Change).decode

# ql2.proto, Response.ResponseType: a finished sequence and a sequence with more to come.
_SUCCESS_SEQUENCE: Final = 2
_SUCCESS_PARTIAL: Final = 3


def decode_response(text: str) -> dict[str, object]:
    """Decode one wire response whose elements are those of a changefeed.

    Returns the mapping that the driver expects: ``t`` and ``r``, the latter a list of `Change`
    for a batch. Any other response (an error) is decoded plainly.

    Raises:
        msgspec.DecodeError: the text is not a response. The caller must not let it escape into
            the driver, whose cursor would lose the batch without a word.
    """
    try:
        response = _decode_response(text)
    except msgspec.ValidationError:
        pass  # an error response: its elements are strings
    except (msgspec.DecodeError, RecursionError) as err:
        return _cut_response(text, err)
    else:
        if response.t in (_SUCCESS_SEQUENCE, _SUCCESS_PARTIAL):
            return {"t": response.t, "r": response.r}
    try:
        plain = msgspec.json.decode(text)
    except RecursionError as err:  # to skip a value, as above, takes less room than to build it
        raise msgspec.DecodeError(str(err)) from err
    return _plain(plain)


def _plain(response: Any) -> dict[str, object]:
    """Return a response that is not a batch of a feed; the driver would crash on anything else."""
    is_response = isinstance(response, dict) and "t" in response
    if not is_response or not isinstance(response.get("r"), list):
        raise msgspec.DecodeError("it is not a response of RethinkDB")
    if response["t"] in (_SUCCESS_SEQUENCE, _SUCCESS_PARTIAL):
        raise msgspec.DecodeError("an element of a batch is not one of a changefeed")
    return dict(response)


def _cut_response(text: str, error: Exception) -> dict[str, object]:
    """Return a response that msgspec refuses, for half a surrogate pair or for its depth."""
    try:
        response = deep_json.members(text.encode())
        kind = json.loads(response["t"])
        if kind in (_SUCCESS_SEQUENCE, _SUCCESS_PARTIAL):
            return {"t": kind, "r": [_cut_change(raw) for raw in deep_json.items(response["r"])]}
        plain = json.loads(text)
    except (ValueError, LookupError, RecursionError):
        raise msgspec.DecodeError(str(error)) from error
    return _plain(plain)


def _cut_change(raw: bytes) -> Change:
    try:
        return _decode_change(raw)
    except (msgspec.DecodeError, RecursionError):
        parts = deep_json.members(raw)
    words = [json.loads(parts.get(name, b'""')) for name in ("type", "state", "error")]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a word of a change is not text")
    old, new = parts.get("old_val", b""), parts.get("new_val", b"")
    return Change(msgspec.Raw(old), msgspec.Raw(new), *words)


_SKIPPED = re.compile(r"skipped (\d+)")


def skipped_changes(error: str) -> int:
    """Return the number of dropped changes that an error in a feed reports; 0 for other errors."""
    found = _SKIPPED.search(error)
    return int(found.group(1)) if found else 0


# A time is `{"$reql_type$":"TIME","epoch_time":N,"timezone":"Z"}`, keys always in that order.
# Strings are matched first and kept, so that nothing inside them is read as a number.
_KEY_TOKEN = re.compile(
    r'(\{"\$reql_type\$":"TIME","epoch_time":)(-?[^,]+)(,"timezone":)"[^"]*"\}'
    r'|"(?:[^"\\]|\\.)*"'
    r"|-0(?:\.0)?(?![0-9.eE])"
)


def _normal_token(match: re.Match[str]) -> str:
    token = match.group(0)
    if match.group(1):
        epoch = "0" if match.group(2) in ("-0", "-0.0") else match.group(2)
        return f'{match.group(1)}{epoch}{match.group(3)}"+00:00"}}'
    return "0" if token.startswith("-0") else token


def normal_key(text: str) -> str:
    """Return the one text that stands for a primary key.

    A key's text is its JSON as RethinkDB writes it. That is unique except for two cases that the
    server treats as the same key: two times of the same instant in different zones, and -0.0
    and 0 (tests/contract/test_keys.py).
    """
    # Most keys are strings and stay as they are: looking for two substrings is cheaper.
    if text.startswith('"') or not ("-0" in text or "TIME" in text):
        return text
    return _KEY_TOKEN.sub(_normal_token, text)


# What a struct's field can be named; half a surrogate pair is in no name that msgspec reads.
_RENAMED = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')


@functools.lru_cache(maxsize=256)  # a feed asks for its own with every batch
def key_reader(primary_key: str) -> Callable[[msgspec.Raw], str]:
    """Return a function that reads the normalised primary key out of a raw document.

    Raises:
        msgspec.ValidationError: from the returned function: the document has no such field.
    """
    decode = _key_decoder(primary_key)

    def read(raw: msgspec.Raw) -> str:
        try:
            key = decode(raw)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, RecursionError, KeyError):
            key = _cut_key(raw, primary_key)
        text = str(key, "utf-8")
        # Most keys are strings: this is asked for each change.
        return text if text[0] == '"' else normal_key(text)

    return read


def _key_decoder(primary_key: str) -> Callable[[msgspec.Raw], bytes | msgspec.Raw]:
    if not _RENAMED.fullmatch(primary_key):
        # A struct's field cannot have such a name; a mapping is slower, and can.
        decode_all = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        return lambda raw: decode_all(raw)[primary_key]
    document = msgspec.defstruct(
        "Document", [("key", msgspec.Raw)], rename={"key": primary_key}, gc=False
    )
    decode = msgspec.json.Decoder(document).decode
    return lambda raw: decode(raw).key  # type: ignore[attr-defined]


def _cut_key(raw: msgspec.Raw, primary_key: str) -> bytes:
    try:
        return deep_json.members(bytes(raw))[primary_key]
    except (ValueError, KeyError) as err:
        raise msgspec.ValidationError(f"a document without {primary_key!r}: {err}") from err
