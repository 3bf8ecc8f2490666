"""Removes the metric series of dropped tables, once nothing more will be counted in them.

Otherwise a database whose tables come and go would have more and more of them.
"""

from replicator.metrics import Metrics


class ClosedTables:
    """Tables whose feeds are closed, while their last entries may still be pending."""

    def __init__(self, metrics: Metrics) -> None:
        """Start with none."""
        self._metrics = metrics
        self._last: dict[str, int] = {}
        self._settled: set[str] = set()

    def closed(self, table: str, last_entry: int) -> None:
        """Note that a feed was closed, when ``last_entry`` was the highest number of all."""
        self._metrics.forget_feed_state(table)
        self._last[table] = last_entry

    def found(self, table: str) -> None:
        """Keep the series of a table that was created again."""
        self._last.pop(table, None)
        self._settled.discard(table)
        self._metrics.register_table(table)

    def look(self, oldest_pending: int) -> None:
        """Remove the series of tables without pending entries; to be called about once a second.

        Each only at the second call: the publisher reports an entry before it counts it.
        """
        for table in self._settled:
            self._metrics.forget_table(table)
            del self._last[table]
        self._settled = {table for table, last in self._last.items() if last < oldest_pending}
