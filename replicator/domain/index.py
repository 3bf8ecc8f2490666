"""The document index while a step is decided: the rows that are known, and what changed.

The store is the only writer of the index, so what it looked up stays true until it commits.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from replicator.domain.model import Known

DELETED: Final = bytes(16)
"""The digest of a document whose delete was published before its table's first snapshot was
complete. If the document is created again while no feed is open, the next snapshot must publish
it: to a baseline it would look as if it had always been there, and would only be recorded.
"""


class IndexChange(NamedTuple):
    """What a step changes in the index of one feed."""

    inserted: Mapping[str, Known] = {}
    updated: Mapping[str, Known] = {}
    deleted: Sequence[int] = ()  # row ids
    forgets_deleted: bool = False  # remove every row whose digest is `DELETED`


class RowIds:
    """Gives out row ids that were never used."""

    def __init__(self, next_id: int) -> None:
        """Begin with this one."""
        self.next_id = next_id

    def take(self) -> int:
        """Return an id that was never given out."""
        taken = self.next_id
        self.next_id = taken + 1
        return taken


class IndexDraft:
    """The index of one feed as it will be after the changes so far.

    A key can occur many times in a step; the database sees only the last of it.
    """

    def __init__(self, row_ids: RowIds) -> None:
        """Know nothing; new rows get their ids from ``row_ids``."""
        self._row_ids = row_ids
        self._known: dict[str, Known | None] = {}  # None: looked up, and not there
        self._changed: dict[str, Known | None] = {}  # None: removed
        self.forgets_deleted = False

    def unknown(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that must be looked up first, each once."""
        known = self._known
        return [key for key in dict.fromkeys(keys) if key not in known]

    def know(self, keys: Sequence[str], rows: Mapping[str, Known]) -> None:
        """Take note of a look-up: the rows that were found for these keys, and perhaps others."""
        self._known.update(dict.fromkeys(keys))
        self._known.update(rows)

    def get(self, key: str) -> Known | None:
        """Return the row of a known key, as changed so far; None when it has no row."""
        return self._changed[key] if key in self._changed else self._known.get(key)

    def put(self, key: str, digest: bytes, document: bytes | None) -> Known:
        """Set the state of a document; returns its row, a new one if it had none."""
        row = self.get(key)
        row_id = self._row_ids.take() if row is None else row.row_id
        self._changed[key] = row = Known(row_id, digest, document)
        return row

    def remove(self, key: str) -> None:
        """Remove the row of a key, if it has one."""
        if self.get(key) is not None:
            self._changed[key] = None

    def change(self) -> IndexChange:
        """Return what must be written."""
        inserted: dict[str, Known] = {}
        updated: dict[str, Known] = {}
        deleted: list[int] = []
        for key, after in self._changed.items():
            before = self._known.get(key)
            if after is None:
                if before is not None:
                    deleted.append(before.row_id)
            elif before is None:
                inserted[key] = after
            elif before.row_id != after.row_id:
                # Deleted and created again within the step: the old row goes, a new one comes.
                deleted.append(before.row_id)
                inserted[key] = after
            else:
                updated[key] = after
        return IndexChange(inserted, updated, deleted, self.forgets_deleted)
