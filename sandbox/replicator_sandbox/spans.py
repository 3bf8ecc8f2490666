"""The part of a table that a read or a changefeed covers, in terms of primary keys."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Protocol

from replicator_sandbox.keys import HIGHEST, LOWEST


class Span(Protocol):
    """The part of a table that a feed covers."""

    def count(self, key: bytes) -> int:
        """Return how many times the document under ``key`` belongs to the feed."""

    def following(self, keys: list[bytes], after: bytes, limit: int) -> list[bytes]:
        """Return up to ``limit`` of a shard's sorted ``keys``, greater than ``after``."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """All keys in ``[low, high)``."""

    low: bytes = LOWEST
    high: bytes = HIGHEST

    def count(self, key: bytes) -> int:
        """Return 1 for a key in the range."""
        return int(self.low <= key < self.high)

    def following(self, keys: list[bytes], after: bytes, limit: int) -> list[bytes]:
        """Return the next keys of the range."""
        start = bisect_right(keys, after) if after >= self.low else bisect_left(keys, self.low)
        return keys[start : min(bisect_left(keys, self.high), start + limit)]


class KeySet:
    """The keys of a ``get_all``; a key that was given twice belongs twice."""

    def __init__(self, keys: list[bytes]) -> None:
        """Hold ``keys``."""
        self._counts = {key: keys.count(key) for key in keys}
        self._sorted = sorted(self._counts)

    def count(self, key: bytes) -> int:
        """Return how often ``key`` was given."""
        return self._counts.get(key, 0)

    def following(self, keys: list[bytes], after: bytes, limit: int) -> list[bytes]:
        """Return the next of the given keys that this shard has."""
        found = []
        for key in self._sorted[bisect_right(self._sorted, after) :]:
            place = bisect_left(keys, key)
            if place < len(keys) and keys[place] == key:
                found.append(key)
        return found[:limit]
