"""Which rows of the document index a snapshot has seen: a bitmap in pages.

Ten million dense row ids take 1.25 MB. Pages exist only where rows are, so ids that have grown
over years of creates and deletes cost nothing.
"""

from collections.abc import Iterable
from typing import Final

_PAGE_BITS: Final = 13  # 8,192 ids, 1 KiB a page
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_PAGE_BYTES: Final = (1 << _PAGE_BITS) // 8
_NO_PAGE: Final = bytes(_PAGE_BYTES)


class SeenRows:
    """A set of row ids that only grows, until it is thrown away with its snapshot."""

    def __init__(self) -> None:
        """Start empty."""
        self._pages: dict[int, bytearray] = {}

    def add(self, row_id: int) -> None:
        """Mark a row as seen; safe to repeat."""
        page = self._pages.get(row_id >> _PAGE_BITS)
        if page is None:
            page = self._pages[row_id >> _PAGE_BITS] = bytearray(_PAGE_BYTES)
        bit = row_id & _PAGE_MASK
        page[bit >> 3] |= 1 << (bit & 7)

    def missing(self, row_ids: Iterable[int]) -> list[int]:
        """Return those that were not marked, in the given order."""
        # One expression: for a million rows, a call for each takes longer.
        page_of = self._pages.get
        return [
            row_id
            for row_id in row_ids
            if not page_of(row_id >> _PAGE_BITS, _NO_PAGE)[(row_id & _PAGE_MASK) >> 3]
            & (1 << (row_id & 7))
        ]

    def __contains__(self, row_id: int) -> bool:
        """Return whether the row was marked."""
        page = self._pages.get(row_id >> _PAGE_BITS)
        if page is None:
            return False
        bit = row_id & _PAGE_MASK
        return bool(page[bit >> 3] & (1 << (bit & 7)))
