"""How the store follows what commands did to its outbox while it runs.

Never in memory: it lets the publisher forget what it has, and reads the outbox again.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import retry
from replicator.domain.model import Failure, Outcomes, TableName
from replicator.errors import OutboxUnavailable
from replicator.operators import entries
from replicator.operators.feeds import request_resync, take_as_baseline
from replicator.outbox.port import Database
from replicator.retry import Backoff
from replicator.store import handover, store
from replicator.store.inbox import Work
from tests.support.feed_elements import add, change, initial
from tests.support.outbox import TABLE, Outbox, outbox

A1, A2 = {"id": "a", "v": 1}, {"id": "a", "v": 2}


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """Entries 1 to 4; 2 is parked, as by the publisher."""
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(initial(A1)), made.ready())
        made.step(made.batch(change(A1, A2), add({"id": 3}), add({"id": 4})))
        made.step(outcomes=[Outcomes(parked=[Failure(2, "too_large", "too large")])])
        yield made


def totals(box: Outbox) -> tuple[int, int]:
    return box.store.status.totals.pending, box.store.status.totals.parked


def states(box: Outbox) -> dict[int, str]:
    return {row[0]: row[1] for row in box.rows("SELECT id, state FROM entries ORDER BY id")}


def next_reading(box: Outbox) -> list[int]:
    """Let the publisher ask again; return what it is offered until it has caught up."""
    box.sink.entries.clear()
    box.read_again()
    while not box.store._handover.has_caught_up:
        box.step()
    return box.sink.numbers


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (lambda box: entries.redrive(box.database, [2]), [1, 2, 3, 4]),
        (lambda box: entries.park(box.database, [1, 3]), [4]),
        (lambda box: entries.discard(box.database, [1, 3]), [4]),
        (lambda box: list(entries.redrive_all(box.database)), [1, 2, 3, 4]),
    ],
)
def test_after_an_order_the_publisher_forgets_and_the_outbox_is_read_again(
    box: Outbox, order: Callable[[Outbox], object], expected: list[int]
) -> None:
    assert box.sink.numbers == [1, 2, 3, 4]
    order(box)
    box.step()
    assert box.sink.forgotten == 1
    assert box.sink.numbers == [1, 2, 3, 4], "nothing is offered in another reading"

    assert next_reading(box) == expected
    box.step()
    assert (box.sink.forgotten, box.sink.numbers) == (1, expected), "an order is followed once"


def test_of_several_orders_each_is_followed_once(box: Outbox) -> None:
    asked: list[TableName] = []
    box.store.connect(box.sink, request_resync=lambda name: not asked.append(name))
    for number in (1, 3, 4):
        entries.park(box.database, [number])
        request_resync(box.database, "db.t")
        box.step()

    assert box.sink.forgotten == 3
    assert asked == [TABLE] * 3
    assert box.value("replicator_entries_parked_total", reason="operator") == 3


def test_what_is_captured_after_an_order_comes_once_in_the_new_reading(box: Outbox) -> None:
    entries.redrive(box.database, [2])
    box.step(box.batch(add({"id": 5})))
    assert box.sink.numbers == [1, 2, 3, 4, 5], "the old reading goes on until it is asked again"
    assert next_reading(box) == [1, 2, 3, 4, 5]
    box.step(box.batch(add({"id": 6})))

    assert box.sink.numbers == [1, 2, 3, 4, 5, 6]


def test_a_redriven_entry_is_settled_like_any_other(box: Outbox) -> None:
    entries.redrive(box.database, [2])
    box.step()
    assert totals(box) == (4, 0)
    next_reading(box)
    box.settle(*box.sink.entries)

    assert (totals(box), states(box)) == ((0, 0), {})


def test_what_is_confirmed_before_the_publisher_asks_again_is_not_read_again(box: Outbox) -> None:
    entries.redrive(box.database, [2])
    box.step()
    first, *_ = box.sink.entries
    box.sink.reading += 1
    box.sink.entries.clear()
    box.step(outcomes=[Outcomes([first.number], len(first.body)), Outcomes(reading=2)])

    assert box.sink.numbers == [2, 3, 4]


def test_a_new_reading_waits_for_room(box: Outbox) -> None:
    entries.redrive(box.database, [2])
    box.step()
    box.sink.room = 0
    box.sink.entries.clear()
    box.read_again()
    box.step()
    assert box.sink.numbers == []

    box.sink.room = 10_000
    box.step()
    assert box.sink.numbers == [1, 2, 3, 4]


def test_a_new_reading_comes_in_pages(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_PAGE_ENTRIES", 2)
    failures = [Failure(number, "refused", "no") for number in (1, 3, 4)]
    box.step(outcomes=[Outcomes(parked=failures)])
    assert len(list(entries.redrive_all(box.database))) == 1
    box.step()
    box.sink.entries.clear()
    box.read_again()
    assert box.sink.numbers == [1, 2]
    box.step()

    assert box.sink.numbers == [1, 2, 3, 4]


def test_scattered_redriven_entries_come_in_their_order(box: Outbox) -> None:
    box.step(box.batch(*(add({"id": number}) for number in range(10, 60))))
    odd = [*range(5, 55, 2)]
    entries.park(box.database, odd)
    box.step()
    assert not {*next_reading(box)} & {*odd}
    entries.redrive(box.database, odd)
    box.step()

    assert next_reading(box) == [1, *range(3, 55)]


def test_a_redriven_entry_with_the_highest_number_is_not_forgotten(box: Outbox) -> None:
    """After a restart only pending entries were read: the parked one was after all of them."""
    box.step(outcomes=[Outcomes(parked=[Failure(4, "refused", "no")])])
    again = box.restart()
    again.step()
    assert again.sink.numbers == [1, 3]
    entries.redrive(box.database, [4])
    again.step()
    assert next_reading(again) == [1, 3, 4]

    again.step(again.batch(add({"id": 5})))
    assert again.sink.numbers == [1, 3, 4, 5]
    again.close()


def test_an_order_that_is_heard_before_there_is_a_channel_is_in_the_first_reading(
    box: Outbox,
) -> None:
    again = box.restart(has_channel=False)
    again.step()
    entries.redrive(box.database, [2])
    again.step()
    assert again.sink.entries == []
    again.open_channel()

    assert again.sink.numbers == [1, 2, 3, 4]
    again.close()


def test_what_was_ordered_before_the_start_is_not_done_again(box: Outbox) -> None:
    asked: list[TableName] = []
    entries.redrive(box.database, [2])
    entries.park(box.database, [3])
    request_resync(box.database, "db.t")
    again = box.restart(has_channel=False)
    again.store.connect(again.sink, request_resync=lambda name: not asked.append(name))
    again.open_channel()
    again.step()

    assert again.sink.numbers == [1, 2, 4]
    assert again.sink.forgotten == 0
    assert asked == []
    again.close()


def test_what_was_ordered_while_the_service_was_built_is_heard(box: Outbox) -> None:
    again = box.restart(has_channel=False)
    entries.redrive(box.database, [2])
    again.open_channel()

    assert again.sink.numbers == [1, 2, 3, 4]
    assert again.sink.forgotten == 1
    again.close()


@pytest.mark.parametrize("action", [entries.park, entries.discard])
def test_what_is_parked_or_discarded_is_counted(action: Callable[..., object], box: Outbox) -> None:
    action(box.database, [1, 3])
    box.step()

    assert totals(box) == ((1, 3) if action is entries.park else (1, 1))
    parked = box.value("replicator_entries_parked_total", reason="operator")
    assert parked == (2 if action is entries.park else 0)


@pytest.mark.parametrize("is_noticed_before", [True, False])
def test_an_entry_that_is_delivered_although_it_was_parked_stays_parked(
    is_noticed_before: bool,  # noqa: FBT001 -- pytest passes it so
    box: Outbox,
) -> None:
    entries.park(box.database, [3])
    if is_noticed_before:
        box.step()
    box.settle(*box.sink.entries[2:4])
    box.step()

    assert states(box) == {1: "pending", 2: "parked", 3: "parked"}
    assert totals(box) == (1, 2)


def test_what_the_publisher_says_of_a_discarded_entry_changes_nothing(box: Outbox) -> None:
    entries.discard(box.database, [1, 3, 4])
    outcomes = Outcomes(
        [1], len(box.sink.entries[0].body), [Failure(3, "nacked", "")], [Failure(4, "refused", "")]
    )
    box.step(outcomes=[outcomes])
    box.step()

    assert states(box) == {2: "parked"}
    assert totals(box) == (0, 1)
    assert box.store.status.totals.bytes == box.rows("SELECT SUM(LENGTH(body)) FROM entries")[0][0]


def test_what_was_parked_and_redriven_before_it_was_heard_of_is_read_where_it_was(
    box: Outbox,
) -> None:
    entries.park(box.database, [3])
    entries.redrive(box.database, [3])
    box.step()

    assert box.sink.forgotten == 1
    assert next_reading(box) == [1, 3, 4]
    assert box.value("replicator_entries_parked_total", reason="operator") == 1


def test_a_thousand_orders_are_one_new_reading_and_one_line(
    box: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    box.step(box.batch(*(add({"id": number}) for number in range(10, 1010))))
    entries.park(box.database, [*range(5, 1005)])
    capsys.readouterr()
    box.step()

    assert box.sink.forgotten == 1
    line = capsys.readouterr().out
    assert line.count("an operator changed entries") == 1
    for fact in ("action=park", "entries=1000", "first=5", "last=1004", "by="):
        assert fact in line
    assert box.value("replicator_entries_parked_total", reason="operator") == 1000


@pytest.mark.parametrize("is_read", [True, False])
def test_a_resync_is_asked_of_the_reader_of_its_table_once(
    box: Outbox, capsys: pytest.CaptureFixture[str], *, is_read: bool
) -> None:
    asked: list[TableName] = []

    def ask(name: TableName) -> bool:
        asked.append(name)
        return is_read

    box.store.connect(box.sink, request_resync=ask)
    request_resync(box.database, "db.t")
    box.step()
    box.step()

    assert asked == [TABLE]
    assert ("replicated again" in capsys.readouterr().out) is not is_read


@pytest.mark.parametrize("order", [request_resync, take_as_baseline])
def test_an_order_that_changes_no_entry_begins_no_reading(
    box: Outbox, capsys: pytest.CaptureFixture[str], order: Callable[[Database, str], object]
) -> None:
    order(box.database, "db.t")
    # What a baseline changes in the row of its feed is for the next start.
    box.store.step(Work([], []), box.now)

    assert box.sink.forgotten == 0
    assert "changed entries" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["version", "orders_after", "tables", "totals"])
def test_orders_that_could_not_be_read_are_followed_later_and_once(
    box: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.001, 0.005))
    asked: list[TableName] = []
    box.store.connect(box.sink, request_resync=lambda name: not asked.append(name))
    entries.redrive(box.database, [2])
    request_resync(box.database, "db.t")
    real, calls = getattr(box.outbox, verb), []

    def fails_once(*arguments: Any) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise OutboxUnavailable("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(box.outbox, verb, fails_once)
    box.step()
    box.step()

    assert len(calls) >= 2
    assert (box.sink.forgotten, asked, totals(box)) == (1, [TABLE], (4, 0))
    assert next_reading(box) == [1, 2, 3, 4]
    capfd.readouterr()
