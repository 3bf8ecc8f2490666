"""The metric series of tables that were dropped: taken away when nothing more will be counted.

A database whose tables come and go would else have more and more of them, until the process ends.
"""

from replicator.metrics import Metrics


class ClosedTables:
    """Tables whose feeds are closed and whose last entries are perhaps not confirmed yet."""

    def __init__(self, metrics: Metrics) -> None:
        """Start with none."""
        self._metrics = metrics
        self._last: dict[str, int] = {}
        self._settled: set[str] = set()

    def closed(self, table: str, last_entry: int) -> None:
        """Note a feed that was closed; its entries have no number above this one."""
        self._metrics.forget_feed_state(table)
        self._last[table] = last_entry

    def found(self, table: str) -> None:
        """Keep the series of a table that is there again."""
        self._last.pop(table, None)
        self._settled.discard(table)
        self._metrics.register_table(table)

    def look(self, oldest_pending: int) -> None:
        """Forget the tables of which nothing is pending; to be called about once a second.

        Each only at the second look: the publisher reports an entry first and counts it then.
        """
        for table in self._settled:
            self._metrics.forget_table(table)
            del self._last[table]
        self._settled = {table for table, last in self._last.items() if last < oldest_pending}
