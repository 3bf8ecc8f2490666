"""How the store takes note of what other processes did to its outbox.

The commands change the database by themselves. What the service has in memory must follow: an
entry that was parked or discarded is withdrawn from the publisher, one that was redriven is handed
to it again, and a resync is asked of the reader of its table.

Invariants:
    - what was redriven is read back from the database, never remembered: what is no longer
      pending by then is not handed over;
    - orders are followed in the order in which they were given, and those that are heard together
      as one: what is in the outbox after the last of them is what counts.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection

from replicator.domain.model import Entry, TableName
from replicator.domain.ports import EntrySink
from replicator.log import get_logger
from replicator.metrics import Metrics
from replicator.outbox import orders as operations
from replicator.outbox.orders import OPERATOR, Action, Order
from replicator.outbox.sqlite import entries, feeds

_MOST_RUNS: Final = 500
"""So many runs of numbers are read in one transaction, which keeps commands waiting."""

RequestResync = Callable[[TableName], bool]
"""Asks the reader of a table for a new snapshot; whether there is one."""


class Heard(NamedTuple):
    """What was read in one transaction, to be followed after it."""

    orders: Sequence[Order]
    names: dict[int, TableName]


class Redriven(NamedTuple):
    """Redriven entries that were read back, and the runs of numbers that are left to be read."""

    entries: Sequence[Entry]
    left: deque[tuple[int, int]]


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
        withdrawn: set[int] = set()
        for order in heard.orders:
            self._last = order.id
            if order.action is Action.RESYNC:
                self._follow_resync(order, heard.names)
            elif order.first_entry is not None and order.last_entry is not None:
                numbers = range(order.first_entry, order.last_entry + 1)
                if order.action is Action.REDRIVE:
                    _take_away(withdrawn, numbers)
                    self._redrive(numbers[: max(0, handed_over + 1 - numbers.start)])
                else:
                    withdrawn.update(numbers)
        # Order matters: told together and after the last of them. An entry that was parked and
        # redriven before anybody heard of it keeps its place; withdrawn in between, it would
        # let newer entries of its document go first.
        if withdrawn and sink is not None:
            sink.withdraw(sorted(withdrawn))
        self._tell(heard.orders)

    def _redrive(self, numbers: range) -> None:
        if numbers:
            self._redriven.append((numbers[0], numbers[-1]))

    def _tell(self, orders: Sequence[Order]) -> None:
        """Count, and say in one line what each operator did, however many entries it was."""
        by_whom: dict[tuple[Action, str], list[Order]] = {}
        for order in orders:
            if order.first_entry is not None:
                by_whom.setdefault((order.action, order.actor), []).append(order)
        for (action, actor), done in by_whom.items():
            count = sum(order.entries for order in done)
            if action is Action.PARK:
                self._metrics.entries_parked.labels(OPERATOR).inc(count)
            self._log.info(
                "an operator changed entries",
                action=action.value,
                entries=count,
                first=min((each.first_entry for each in done if each.first_entry), default=None),
                last=max((each.last_entry for each in done if each.last_entry), default=None),
                by=actor,
            )

    def _follow_resync(self, order: Order, names: dict[int, TableName]) -> None:
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

    def next_redriven(self, connection: Connection, *, most: int, most_bytes: int) -> Redriven:
        """Read redriven entries back that are still pending; `redriven_handed_over` follows.

        Raises:
            OutboxUnusable: see `entries.page`.
        """
        found: list[Entry] = []
        size = 0
        left = deque(self._redriven)
        for _ in range(min(_MOST_RUNS, len(left))):
            if len(found) >= most or size >= most_bytes:
                break
            first, last = left.popleft()
            page = entries.page(
                connection,
                after=first - 1,
                up_to=last,
                most=most - len(found),
                most_bytes=most_bytes - size,
            )
            found += page.entries
            size += sum(len(entry.body) for entry in page.entries)
            if not page.is_last:
                left.appendleft((page.entries[-1].number + 1, last))
        return Redriven(found, left)

    def redriven_handed_over(self, redriven: Redriven) -> None:
        """Note that what `next_redriven` returned went to the sink."""
        self._redriven = redriven.left


def _take_away(numbers: set[int], gone: range) -> None:
    """Take a range out of a set; either may be large, and the time is that of the smaller one."""
    few = gone if len(gone) < len(numbers) else [number for number in numbers if number in gone]
    numbers.difference_update(few)
