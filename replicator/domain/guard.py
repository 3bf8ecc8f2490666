"""The guard against mass deletion: whether the deletes that a comparison found may be published.

A comparison that would delete many documents has more often met a wrong server than a wish. Pure:
the store counts, this decides. See ADR 9.
"""

from fractions import Fraction
from typing import Final, NamedTuple

import msgspec

from replicator.domain.model import Count, Instant

SHARE_APPLIES_ABOVE: Final = 1000
"""Documents that may be deleted whatever their share: a small table changes whole."""
MAX_KEYS: Final = 10
"""How many of the documents are named to operators."""


class DeleteLimit(NamedTuple):
    """What a comparison may delete; it is guarded when it would exceed both."""

    documents: int
    share: Fraction = Fraction(0)  # of the documents that the index had before the comparison

    def is_exceeded(self, deletes: int, documents: int) -> bool:
        """Return whether this number of deletes is too many for an index of this size."""
        return deletes > self.documents and deletes > self.share * documents


DEFAULT_LIMIT: Final = DeleteLimit(SHARE_APPLIES_ABOVE, Fraction(1, 5))


class Missing(msgspec.Struct, frozen=True):
    """What a comparison has counted so far: documents of the index that it did not find."""

    deletes: int = 0
    documents: int = 0  # of the index, those that it had before the comparison
    keys: tuple[str, ...] = ()  # the first of the missing ones
    first_start: str | None = None  # the beginning of the first page that had one
    next_start: str | None = ""  # the first key that is not counted; None: all are


class Guard(msgspec.Struct, frozen=True):
    """What a comparison held back; kept until one is complete."""

    at: Instant
    deletes: Count
    documents: Count  # that the index had before the first of the comparisons that were guarded
    keys: tuple[str, ...]  # some of the documents: primary keys as JSON texts
    table_id: str | None  # RethinkDB's own: a table created again under the same name has another
    accepted: Count | None = None  # how many deletes an operator has accepted


def held_back(
    limit: DeleteLimit | None,
    missing: Missing,
    before: Guard | None,
    *,
    table_id: str | None,
    at: Instant,
) -> Guard | None:
    """Decide on a finished count: return what is held back, or None if the deletes may go.

    Args:
        limit: the setting; None: off.
        missing: the count.
        before: what an earlier comparison held back, when none was complete since.
        table_id: of the table that was compared.
        at: now.
    """
    documents = missing.documents
    if before is not None:
        # Order matters: before the share is taken. Documents that came in since the guard began
        # would make the share smaller, and the next restart would let the deletes go.
        documents = min(documents, before.documents)
        is_accepted = before.accepted is not None and missing.deletes <= before.accepted
        if is_accepted and before.table_id == table_id:
            return None
    if limit is None or not limit.is_exceeded(missing.deletes, documents):
        return None
    return Guard(at, missing.deletes, documents, missing.keys, table_id)
