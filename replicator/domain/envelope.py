"""The message body that consumers see: the ``change`` envelope.

Exactly two keys, as in RethinkDB's own tutorial; the values are the bytes that RethinkDB sent.
"""

import json
from collections.abc import Callable
from typing import Final

import msgspec

Envelope = Callable[[bytes | msgspec.Raw, bytes | msgspec.Raw], bytes]
"""From the old and the new document (raw JSON, ``null`` for none) to a body."""

NULL: Final = b"null"


def change_envelope(old: bytes | msgspec.Raw, new: bytes | msgspec.Raw) -> bytes:
    """Return ``{"old_val": …, "new_val": …}`` around raw JSON values."""
    return b'{"old_val":%b,"new_val":%b}' % (old, new)


def key_document(primary_key: str, key: str) -> bytes:
    """Return the document that stands for a deleted one of which only the key is known.

    A name may have half a surrogate pair, which UTF-8 has no bytes for and JSON has an escape.
    """
    name = json.dumps(primary_key, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return b"{%b:%b}" % (name, key.encode())
