"""What other processes do to the outbox while its one writer runs."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from replicator.domain.model import Op
from replicator.errors import OutboxUnusable
from replicator.outbox.orders import Action, Order
from replicator.outbox.port import Outbox, Step
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import NAME, append, feed_of, parked, report


@pytest.mark.parametrize(
    "change",
    [
        lambda database: database.redrive(2),
        lambda database: database.park(4),
        lambda database: database.discard(4),
        lambda database: database.order(at=1, actor="me", action="resync", feed_id=1),
    ],
)
def test_only_what_others_change_changes_the_version(
    database: Database, outbox: Outbox, change: Callable[[Database], None]
) -> None:
    before = outbox.version()
    append(outbox, 1, 2)
    outbox.commit(parked(2))
    outbox.commit(report([1]))
    append(outbox, 3)
    lost = feed_of(outbox.register(NAME, "{}"))
    outbox.commit(Step(feeds=[(lost, replace(lost, captured=9))]))
    outbox.page(0, max_entries=9, max_bytes=9)
    outbox.totals()
    outbox.tidy()
    assert outbox.version() == before

    append(outbox, 4)
    change(database)
    after = outbox.version()
    assert after != before
    assert outbox.version() == after


def test_what_others_read_does_not_change_the_version(database: Database, outbox: Outbox) -> None:
    before = outbox.version()
    database.contents()

    assert outbox.version() == before


def test_orders_come_as_they_were_given_oldest_first(database: Database, outbox: Outbox) -> None:
    assert outbox.orders_after(0) == []
    database.order(at=5, actor="me", action="redrive", first_entry=1, last_entry=9, was="parked")
    parked_by = {"first_entry": 3, "last_entry": 3, "key": '"3"', "op": "update", "feed_id": 1}
    database.order(at=6, actor="you", action="park", captured_at=4, was="pending", **parked_by)
    database.order(at=7, actor="me", action="resync", feed_id=1)
    database.order(
        at=8, actor="you", action="accept-deletes", feed_id=1, captured_at=7, deletes=5000
    )
    orders = [
        Order(1, 5, "me", Action.REDRIVE, None, 1, 9, None, None, None, "parked", None),
        Order(2, 6, "you", Action.PARK, 1, 3, 3, '"3"', Op.UPDATE, 4, "pending", None),
        Order(3, 7, "me", Action.RESYNC, 1, None, None, None, None, None, None, None),
        Order(4, 8, "you", Action.ACCEPT_DELETES, 1, None, None, None, None, 7, None, 5000),
    ]

    assert outbox.orders_after(0) == orders
    assert outbox.orders_after(2) == orders[2:]
    assert outbox.orders_after(4) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("action", "'ponder'"), ("last_entry", "NULL"), ("key", "'not JSON'"), ("at", "-1")],
)
def test_an_order_that_no_command_writes_is_not_followed(
    database: Database, outbox: Outbox, column: str, value: str
) -> None:
    database.order(at=5, actor="me", action="park", first_entry=1, last_entry=1, key='"1"')
    database.damage(f'UPDATE operations SET "{column}" = {value}')

    with pytest.raises(OutboxUnusable, match="is damaged: in its table operations"):
        outbox.orders_after(0)
