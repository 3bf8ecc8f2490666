"""Rows as the outbox writes them, checked when they are read.

SQLite keeps a value of any type in any column and has no checksums, so a row may contain anything
that another program, a failing disk or a copy of an open file has put there. A row that no outbox
writes ends the command, or the service at its start, with one line; nothing is guessed and nothing
is skipped. Damage that has the right form cannot be detected.
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
"""The first characters of every message id."""

Shape = TypeVar("Shape")
# Checks a value to its end without making an object of it.
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_WHERE = re.compile(r"`\$\[(\d+)\]")


def damaged(table: str, what: str) -> OutboxUnusable:
    """Return the error for a row that no outbox writes."""
    return OutboxUnusable(
        f"the outbox is damaged: in its table {table}, {what}",
        hint="move the file away: a new outbox starts with a new snapshot",
    )


def sound(rows: Iterable[Any], shape: type[Shape], table: str) -> list[Shape]:
    """Return rows as values of ``shape``: a named tuple or, for mappings, a struct.

    Raises:
        OutboxUnusable: a value has another type, is unknown, or is out of bounds.
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
    """Check primary keys all at once, which is faster than one by one.

    Raises:
        OutboxUnusable: one of them is not JSON.
    """
    for key in keys:
        try:
            _skip(key)
        except (ValueError, RecursionError):
            sound_key(key, table)


def sound_key(key: str, table: str) -> str:
    """Return a primary key after checking that it is JSON.

    Raises:
        OutboxUnusable: it is not.
    """
    try:
        msgspec.json.decode(key)
    except (ValueError, RecursionError):
        try:
            json.loads(key)  # accepts half a surrogate pair, which a key may contain
        except (ValueError, RecursionError) as err:
            raise damaged(table, f"a key is not JSON: {key[:100]!r}") from err
    return key
