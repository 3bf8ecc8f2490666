"""How the store takes note of what other processes did to its outbox.

The commands change the database by themselves. What the service has in memory must follow: an
entry that was parked or discarded is withdrawn from the publisher, one that was redriven is handed
to it again, and a resync is asked of the reader of its table.

Invariants:
    - what was redriven is read back from the database, never remembered: what is no longer
      pending by then is not handed over;
    - orders are followed in the order in which they were given.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection

from replicator.domain.flow import EntrySink
from replicator.domain.model import TableName
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.outbox import entries, feeds, operations
from replicator.outbox.operations import Action, Operation

OPERATOR: Final = "operator"
"""The reason of an entry that was parked by a command."""

RequestResync = Callable[[TableName], bool]
"""Asks the reader of a table for a new snapshot; whether there is one."""


class Heard(NamedTuple):
    """What was read in one transaction, to be followed after it."""

    orders: Sequence[Operation]
    names: dict[int, TableName]


class Requests:
    """The orders that were not heard yet, and the redriven entries that wait for room."""

    def __init__(self, metrics: Metrics) -> None:
        """Start with nothing heard; `begin` says from where on."""
        self._metrics = metrics
        self._log = get_logger("store")
        self._last = 0
        self._redriven: deque[tuple[int, int]] = deque()
        self.request_resync: RequestResync = lambda _: False

    def begin(self, connection: Connection) -> None:
        """Take everything that was ordered until now as done: a start reads all that is there."""
        self._last = operations.last(connection)

    def hear(self, connection: Connection) -> Heard:
        """Read what was ordered since the last time; nothing is changed until `follow`."""
        orders = operations.behind(connection, self._last)
        return Heard(orders, feeds.names(connection) if orders else {})

    def follow(self, heard: Heard, sink: EntrySink | None, handed_over: int) -> None:
        """Do what was ordered.

        Args:
            heard: what `hear` returned; its transaction is over.
            sink: who publishes.
            handed_over: up to this number, every entry that was pending went to the sink. What is
                above it will be read in its turn.
        """
        for order in heard.orders:
            self._last = order.id
            if order.action is Action.RESYNC:
                self._follow_resync(order, heard.names)
                continue
            self._log.info(
                "an operator changed entries",
                action=order.action.value,
                first=order.first_entry,
                last=order.last_entry,
                by=order.actor,
            )
            if order.first_entry is None or order.last_entry is None:
                continue
            if order.action is Action.REDRIVE:
                last = min(order.last_entry, handed_over)
                if order.first_entry <= last:
                    self._redriven.append((order.first_entry, last))
                continue
            if order.action is Action.PARK:
                self._metrics.entries_parked.labels(OPERATOR).inc(order.entries)
            if sink is not None:
                sink.withdraw(range(order.first_entry, order.last_entry + 1))

    def _follow_resync(self, order: Operation, names: dict[int, TableName]) -> None:
        name = None if order.feed_id is None else names.get(order.feed_id)
        is_followed = name is not None and self.request_resync(name)
        self._log.info(
            "an operator asked for a resync"
            if is_followed
            else "no reader of this table runs: "
            "the resync that an operator asked for comes when it is replicated again",
            table=str(name),
            by=order.actor,
        )

    @property
    def has_redriven(self) -> bool:
        """Whether redriven entries wait to be handed over."""
        return bool(self._redriven)

    def next_redriven(self, connection: Connection, *, most: int, most_bytes: int) -> entries.Page:
        """Read redriven entries back that are still pending; `handed_over` follows.

        Raises:
            OutboxUnusable: see `entries.page`.
        """
        first, last = self._redriven[0]
        return entries.page(
            connection, after=first - 1, up_to=last, most=most, most_bytes=most_bytes
        )

    def redriven_handed_over(self, page: entries.Page) -> None:
        """Note that a page of `next_redriven` went to the sink."""
        _, last = self._redriven.popleft()
        if not page.is_last:
            self._redriven.appendleft((page.entries[-1].number + 1, last))
