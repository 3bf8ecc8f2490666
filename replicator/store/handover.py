"""Hands the outbox's entries to the publisher, in readings that each begin at the oldest entry.

A reading goes through the pending entries in the order of their numbers. At first they are read
back from the outbox, page by page. After the last page the publisher has caught up: from then on
it gets what is committed from memory, until it has no room.

Invariant: within a reading every entry is offered once, and none before an older one (G3).
"""

from collections.abc import Sequence
from typing import Final

from replicator.domain.model import Entry
from replicator.domain.ports import EntrySink
from replicator.fault_points import FaultPoint, reach
from replicator.outbox.port import Outbox

_PAGE_ENTRIES: Final = 2000
_PAGE_BYTES: Final = 8 * 1024 * 1024
# What an orderly stop still hands over: enough for what was just captured, and little of a backlog,
# which is published after the next start.
_LAST_PAGES: Final = 5


class Handover:
    """Hands committed entries to the publisher; for the store's thread."""

    def __init__(self, outbox: Outbox) -> None:
        """Hand over nothing until the publisher asks for the first reading."""
        self._outbox = outbox
        self._sink: EntrySink | None = None
        self._reading = 0
        self._read_up_to = 0
        self._pages_left: float = float("inf")
        self.has_caught_up = False
        """Whether every pending entry was offered in this reading."""

    def require_readable(self) -> None:
        """Read the first page, so that a damaged row ends the start, not the service later.

        Raises:
            OutboxUnusable: a row of the page is damaged.
        """
        self._outbox.page(0, max_entries=_PAGE_ENTRIES, max_bytes=_PAGE_BYTES)

    def connect(self, sink: EntrySink) -> None:
        """Name the publisher."""
        self._sink = sink

    def begin(self, reading: int) -> None:
        """Begin a reading that the publisher has asked for.

        Order matters: what it reported before it asked is committed first. Otherwise an entry that
        was confirmed would be read and published again, perhaps after a newer one.
        """
        self._reading = reading
        self._read_up_to = 0
        self.has_caught_up = False

    def ask_again(self) -> None:
        """Make the publisher forget what it has not sent yet, and ask for a new reading."""
        if self._sink is not None:
            self._sink.forget()

    def end(self) -> None:
        """Read a few more pages back, then none; from any thread. Safe to repeat."""
        self._pages_left = min(self._pages_left, _LAST_PAGES)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is read back unless the publisher asks again; any thread may ask."""
        return self.has_caught_up or self._pages_left <= 0

    def committed(self, entries: Sequence[Entry]) -> None:
        """Offer what was just committed, if everything before it was offered."""
        if not entries or not self.has_caught_up or self._sink is None:
            return
        if self._sink.room < len(entries):
            self.has_caught_up = False
            return
        self._sink.offer(entries, self._reading)
        self._read_up_to = entries[-1].number
        reach(FaultPoint.HANDED_OVER)

    @property
    def may_refill(self) -> bool:
        """Whether a page should be read back: the publisher lags and has room for one.

        Never before it has asked for a reading: it would drop what it is offered.
        """
        return (
            self._reading > 0
            and not self.has_caught_up
            and self._pages_left > 0
            and self._sink is not None
            and self._sink.room >= _PAGE_ENTRIES
        )

    def refill(self) -> None:
        """Read a page back for a publisher that lags and has room.

        Raises:
            OutboxUnavailable: nothing was read; safe to repeat.
        """
        if not self.may_refill or self._sink is None:
            return
        page = self._outbox.page(self._read_up_to, max_entries=_PAGE_ENTRIES, max_bytes=_PAGE_BYTES)
        self._pages_left -= 1
        if page.entries:
            self._sink.offer(page.entries, self._reading)
            self._read_up_to = page.entries[-1].number
            reach(FaultPoint.READ_BACK)
        # No race: only this thread commits entries. So after the last page everything committed so
        # far is handed over, and what comes next can go through memory.
        self.has_caught_up = page.is_last
