"""What was reported to the store, and as far as is known not committed yet.

Until that commit, an entry that is confirmed still is pending to whoever reads the outbox. Only
the publisher knows that it must not be published again.

Invariant: what the store read before a commit is taken in before `forget` of that commit. Both go
the same way, in order.
"""

from collections import deque
from collections.abc import Callable, Iterable

from replicator.domain.model import Entry, Outcomes


class Reports:
    """The reports that are on their way; for who has the publisher's lock."""

    def __init__(self, report: Callable[[Outcomes], None]) -> None:
        """Start with none; ``report`` takes them and must not wait."""
        self._report = report
        self._uncommitted: deque[Outcomes] = deque()

    def send(self, outcomes: Outcomes) -> None:
        """Report what became of entries."""
        # Order matters: the other way round, the commit could be heard of before the report.
        self._uncommitted.append(outcomes)
        self._report(outcomes)

    def forget(self, reports: int) -> None:
        """Take the oldest so many for committed."""
        for _ in range(reports):
            self._uncommitted.popleft()

    def without(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return those entries of which no report is on its way: that decides about the others."""
        done = {number for report in self._uncommitted for number in report.settled}
        done |= {failure.number for report in self._uncommitted for failure in report.parked}
        return [entry for entry in entries if entry.number not in done]
