"""Rows as the outbox writes them, checked when they are read.

SQLite keeps a value of any type in any column and has no checksums, so a row may hold anything
that another program, a failing disk or a copy made of an open file has put there. What cannot be
an outbox's row ends the command, or the service at its start, with one line; nothing is guessed
and nothing is skipped. What is still of the right form cannot be told from what was written.
"""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec

from replicator.domain.model import MAX_COUNT, Count, Instant
from replicator.errors import OutboxUnusable

__all__ = [
    "MAX_COUNT",
    "Count",
    "Instant",
    "OutboxId",
    "damaged",
    "sound",
    "sound_key",
    "sound_keys",
]

OutboxId = Annotated[str, msgspec.Meta(pattern="^[a-z2-7]{8}$")]
"""The characters in front of every message id."""

Shape = TypeVar("Shape")
# Reads a value through to its end and makes nothing of it.
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_WHERE = re.compile(r"`\$\[(\d+)\]")


def damaged(table: str, what: str) -> OutboxUnusable:
    """Return the error for a row that no outbox writes."""
    return OutboxUnusable(
        f"the outbox is damaged: in its table {table}, {what}",
        hint="move the file away: a new outbox starts with a new snapshot",
    )


def sound(rows: Iterable[Any], shape: type[Shape], table: str) -> list[Shape]:
    """Return rows in their shape, a named tuple or, for mappings, a struct.

    Raises:
        OutboxUnusable: a value is of another type, unknown, or out of its bounds.
    """
    found = list(rows)
    try:
        return msgspec.convert(found, list[shape], builtin_types=(bytes,))  # type: ignore[valid-type]
    except msgspec.ValidationError as err:
        row = found[int(where[1])] if (where := _WHERE.search(str(err))) else {}
        columns = (
            row if isinstance(row, dict) else dict(zip(shape.__annotations__, row, strict=False))
        )
        number = columns.get("id", columns.get("number"))
        which = "a value" if number is None else f"row {number!r}"
        raise damaged(table, f"{which}: {str(err).partition(' - at ')[0]}") from err


def sound_keys(keys: Iterable[str], table: str) -> None:
    """Check primary keys, faster than one by one.

    Raises:
        OutboxUnusable: one of them is not JSON.
    """
    for key in keys:
        try:
            _skip(key)
        except (ValueError, RecursionError):
            sound_key(key, table)


def sound_key(key: str, table: str) -> str:
    """Return a primary key that is JSON, as all of them are.

    Raises:
        OutboxUnusable: it is not.
    """
    try:
        msgspec.json.decode(key)
    except (ValueError, RecursionError):
        try:
            json.loads(key)  # takes half a surrogate pair, as the key of a document may have it
        except (ValueError, RecursionError) as err:
            raise damaged(table, f"a key is not JSON: {key[:100]!r}") from err
    return key
