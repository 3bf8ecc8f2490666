"""An operator at work beside the service: the commands' own transactions, from another connection.

They come at any step, also in the middle of one of the store's: between what it has read and what
it then tells the publisher.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import QueuePool

from replicator.errors import NothingHeldBack, OutboxUnavailable
from replicator.operators import entries, feeds
from replicator.outbox import migrations
from replicator.outbox.orders import Action
from replicator.outbox.sqlite import connection as engine
from replicator.outbox.sqlite import database as sqlite
from tests.faults.pipeline.parts import Database

if TYPE_CHECKING:
    from tests.faults.pipeline.pipeline import Pipeline

_MAX = 3  # entries of one command


class Operator:
    """What an operator does to the entries of one scenario; each method is an action."""

    def __init__(self, pipeline: "Pipeline", database: Database) -> None:
        self._pipeline = pipeline
        self._beside = sqlite.SqliteDatabase(database.path)
        self._interludes: list[int] = []

    # Actions.

    def park(self, number: int) -> None:
        self._do(Action.PARK, _chosen(sorted(self._pipeline.ledger.pending), number))

    def redrive(self, number: int) -> None:
        self._do(Action.REDRIVE, _chosen(sorted(self._pipeline.ledger.parked), number))

    def discard(self, number: int) -> None:
        ledger = self._pipeline.ledger
        self._do(Action.DISCARD, _chosen(sorted(ledger.pending | ledger.parked), number))

    def discard_parked(self, _number: int) -> None:
        """Drop everything that is parked."""
        self._do(Action.DISCARD, sorted(self._pipeline.ledger.parked))

    def change_their_mind(self, number: int) -> None:
        """Park something and take it back before anybody does anything: it keeps its place."""
        numbers = _chosen(sorted(self._pipeline.ledger.pending), number)
        self._do(Action.PARK, numbers)
        self._do(Action.REDRIVE, numbers, is_late=False)

    def accept_deletes(self, number: int) -> None:
        """Let a table's deletes go, if the guard holds some back."""
        feed_id, table = 1 + number % 2, f"db.{self._pipeline.tables[number % 2].name}"
        try:
            guard = feeds.held_back(self._beside, table)
            feeds.accept_deletes(self._beside, table, guard)
        except (NothingHeldBack, OutboxUnavailable):
            return
        self._pipeline.ledger.operator_accepts(feed_id, guard.deletes)

    def interpose(self, number: int) -> None:
        """Let something happen in the middle of one of the store's next steps."""
        self._interludes.append(number)

    # The rest.

    def interlude(self) -> None:
        """Do what was interposed; called where other threads and processes go on meanwhile."""
        while self._interludes:
            number = self._interludes.pop()
            kind, number = number % 5, number // 5
            does = (
                self._publish,
                self.park,
                self.redrive,
                self.change_their_mind,
                self.accept_deletes,
            )
            does[kind](number)

    def _publish(self, number: int) -> None:
        if self._pipeline.link is not None:
            self._pipeline.publish(number)

    def _do(self, action: Action, numbers: Sequence[int], *, is_late: bool = True) -> None:
        """Give a command, and tell the ledger what it truly changed.

        What is redriven is late, unless nothing happened since it was parked: newer entries of its
        document may have been sent meanwhile.
        """
        if not numbers:
            return
        ledger = self._pipeline.ledger
        try:
            done = entries._change(
                self._beside, numbers, action, is_dry=False, are_all_needed=False
            )
        except OutboxUnavailable:
            return  # the command is of another process: it fails there, and the store goes on
        changed = [each.entry.id for each in done if each.is_changed]
        if not changed:
            return
        match action:
            case Action.PARK:
                ledger.operator_parks(changed)
            case Action.REDRIVE:
                ledger.operator_redrives(changed, changed if is_late else ())
            case _:
                ledger.operator_discards(changed)

    @property
    def is_uncounted(self) -> bool:
        """Whether the store has yet to count what was changed beside it."""
        cursor = self._pipeline.database.cursor
        (version,) = cursor.execute("PRAGMA data_version").fetchone()
        return bool(self._pipeline.store._version != version)


def _chosen(numbers: Sequence[int], number: int) -> Sequence[int]:
    """Return some neighbours, most often one."""
    if not numbers:
        return []
    first = (number >> 2) % len(numbers)
    return numbers[first : first + 1 + max(0, number % 4 - 1) % _MAX]


@contextlib.contextmanager
def commands_beside(database: Database) -> Iterator[None]:
    """Let commands share one engine, which no fault meets: scenarios are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "NullPool", QueuePool)
        beside = engine.open_engine(database.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "open_engine", lambda _path: beside)
        patch.setattr(migrations, "require_current", lambda _connection: None)
        yield
    beside.dispose()
