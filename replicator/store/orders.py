"""Carries out what operators ordered by commands, which change the outbox in their own processes.

What an order did to entries is in the outbox already. The publisher forgets what it has not sent,
and the outbox is read again, so nothing has to be changed in memory. A resync is passed on to the
reader of its table, and accepted deletes to the comparison that holds them back.
"""

from collections.abc import Callable, Mapping, Sequence

from replicator.domain.model import TableName
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.outbox.orders import OPERATOR, Action, Order

RequestResync = Callable[[TableName], bool]
"""Asks the reader of a table for a new snapshot; returns whether there is one."""
AcceptDeletes = Callable[[int, int, int], bool]
"""Accepts what a feed's comparison found at an instant, up to a number of deletes; returns whether
it is still held back."""


class Orders:
    """The orders that the store has read."""

    def __init__(self, metrics: Metrics, accept_deletes: AcceptDeletes) -> None:
        """Start with none."""
        self._metrics = metrics
        self._accept_deletes = accept_deletes
        self._log = get_logger("store")
        self.last = 0
        """The number of the newest order that was read."""
        self.request_resync: RequestResync = lambda _: False

    def hear(self, orders: Sequence[Order], tables: Mapping[int, TableName]) -> bool:
        """Carry out new orders; returns whether entries were changed."""
        by_whom: dict[tuple[Action, str], list[Order]] = {}
        for order in orders:
            self.last = order.id
            if order.action is Action.RESYNC:
                self._ask_for_resync(order, tables)
            elif order.action is Action.ACCEPT_DELETES:
                self._accept(order, tables)
            elif order.first_entry is not None:
                by_whom.setdefault((order.action, order.actor), []).append(order)
        for (action, actor), done in by_whom.items():
            count = sum(order.entries for order in done)
            if action is Action.PARK:
                self._metrics.entries_parked.labels(OPERATOR).inc(count)
            self._log.info(
                "an operator changed entries",
                action=action.value,
                entries=count,
                first=min(each.first_entry for each in done if each.first_entry is not None),
                last=max(each.last_entry for each in done if each.last_entry is not None),
                by=actor,
            )
        return bool(by_whom)

    def _ask_for_resync(self, order: Order, tables: Mapping[int, TableName]) -> None:
        name = None if order.feed_id is None else tables.get(order.feed_id)
        is_followed = name is not None and self.request_resync(name)
        self._log.info(
            "an operator asked for a resync"
            if is_followed
            else "an operator asked for a resync, which comes when the table is replicated again",
            table=str(name),
            by=order.actor,
        )

    def _accept(self, order: Order, tables: Mapping[int, TableName]) -> None:
        if order.feed_id is None or order.captured_at is None or order.deletes is None:
            return
        is_taken = self._accept_deletes(order.feed_id, order.captured_at, order.deletes)
        self._log.info(
            "an operator accepted deletes that were held back"
            if is_taken
            else "an operator accepted deletes that are not held back any more, or not the same",
            table=str(tables.get(order.feed_id)),
            deletes=order.deletes,
            by=order.actor,
        )
