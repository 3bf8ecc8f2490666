"""How the store follows what commands did to its outbox while it runs."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.domain.model import Failure, Outcomes, TableName
from replicator.operators import entries
from replicator.operators.feeds import request_resync
from replicator.store import store
from tests.support.feed_elements import add, change, initial
from tests.support.outbox import TABLE, Outbox, outbox

A1, A2, A3 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": "a", "v": 3}


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


def test_a_redriven_entry_is_handed_over_without_a_restart(box: Outbox) -> None:
    assert box.sink.numbers == [1, 2, 3, 4]
    entries.redrive(box.database, [2])
    box.step()
    box.step()

    assert box.sink.numbers == [1, 2, 3, 4, 2]
    assert totals(box) == (4, 0)
    box.settle(*box.sink.entries[:4])
    assert (totals(box), states(box)) == ((0, 0), {})
    box.step()
    assert box.sink.numbers == [1, 2, 3, 4, 2], "handed over once"


def test_what_is_redriven_waits_for_room(box: Outbox) -> None:
    box.sink.room = 0
    entries.redrive(box.database, [2])
    box.step()
    box.step()
    assert box.sink.numbers == [1, 2, 3, 4]

    box.sink.room = 10_000
    box.step()
    assert box.sink.numbers == [1, 2, 3, 4, 2]


def test_many_redriven_entries_come_in_pages(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PAGE_ENTRIES", 2)
    failures = [Failure(number, "refused", "no") for number in (1, 3, 4)]
    box.step(outcomes=[Outcomes(parked=failures)])
    assert len(list(entries.redrive_all(box.database))) == 1
    for _ in range(4):
        box.step()

    assert box.sink.numbers == [1, 2, 3, 4, 1, 2, 3, 4]


def test_an_entry_that_is_not_pending_any_more_is_not_handed_over(box: Outbox) -> None:
    entries.redrive(box.database, [2])
    entries.park(box.database, [2])
    box.step()
    box.step()

    assert box.sink.numbers == [1, 2, 3, 4]
    assert box.sink.withdrawn == [2]


def test_a_redriven_entry_with_the_highest_number_is_not_forgotten(box: Outbox) -> None:
    """After a restart only pending entries were read: the parked one was behind all of them."""
    box.step(outcomes=[Outcomes(parked=[Failure(4, "refused", "no")])])
    again = box.restart()
    again.step()
    assert again.sink.numbers == [1, 3]
    entries.redrive(box.database, [4])
    again.step()
    again.step()

    assert again.sink.numbers == [1, 3, 4]
    again.step(again.batch(add({"id": 5})))
    assert again.sink.numbers == [1, 3, 4, 5]
    again.close()


def test_what_the_publisher_did_not_have_yet_comes_once_and_in_its_order(box: Outbox) -> None:
    box.step(outcomes=[Outcomes(parked=[Failure(4, "refused", "no")])])
    again = box.restart(room=0)
    again.step()
    entries.redrive(box.database, [2, 4])
    again.step()
    again.sink.room = 10_000
    again.step()
    again.step()

    assert again.sink.numbers == [1, 2, 3, 4]
    again.close()


def test_what_was_read_back_before_its_order_was_heard_does_not_come_again(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.step(outcomes=[Outcomes(parked=[Failure(4, "refused", "no")])])
    again = box.restart(room=0)
    again.step()
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 3600.0)
    entries.redrive(box.database, [2, 4])
    again.sink.room = 10_000
    again.step()
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    again.step()
    again.step()

    assert again.sink.numbers == [1, 2, 3, 4]
    again.close()


def test_what_was_ordered_before_the_start_is_not_done_again(box: Outbox) -> None:
    asked: list[TableName] = []
    entries.redrive(box.database, [2])
    entries.park(box.database, [3])
    request_resync(box.database, "db.t")
    again = box.restart()
    again.store.on_resync(lambda name: not asked.append(name))
    again.step()
    again.step()

    assert again.sink.numbers == [1, 2, 4]
    assert again.sink.withdrawn == []
    assert asked == []
    again.close()


@pytest.mark.parametrize("action", [entries.park, entries.discard])
def test_what_is_parked_or_discarded_is_withdrawn_from_the_publisher(
    action: type, box: Outbox
) -> None:
    action(box.database, [1, 3])
    box.step()

    assert box.sink.withdrawn == [1, 3]
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


def test_what_was_parked_and_redriven_before_it_was_heard_of_is_not_withdrawn(box: Outbox) -> None:
    entries.park(box.database, [3])
    entries.redrive(box.database, [3])
    box.step()
    box.step()

    assert box.sink.withdrawals == 0
    assert box.sink.numbers == [1, 2, 3, 4, 3], "the publisher leaves it where it is"
    assert box.value("replicator_entries_parked_total", reason="operator") == 1


def test_a_thousand_orders_are_one_withdrawal_and_one_line(
    box: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    box.step(box.batch(*(add({"id": number}) for number in range(10, 1010))))
    entries.park(box.database, [*range(5, 1005)])
    capsys.readouterr()
    box.step()

    assert box.sink.withdrawals == 1
    assert box.sink.withdrawn == [*range(5, 1005)]
    assert capsys.readouterr().out.count("an operator changed entries") == 1
    assert box.value("replicator_entries_parked_total", reason="operator") == 1000


def test_scattered_redriven_entries_come_in_few_steps(box: Outbox) -> None:
    box.step(box.batch(*(add({"id": number}) for number in range(10, 60))))
    odd = [*range(5, 55, 2)]
    entries.park(box.database, odd)
    box.step()
    entries.redrive(box.database, odd)
    box.step()
    before = len(box.sink.numbers)
    box.step()

    assert box.sink.numbers[before:] == odd


def test_the_publisher_is_told_of_each_commit_of_its_reports(box: Outbox) -> None:
    before = box.sink.reports
    box.step(outcomes=[Outcomes([1]), Outcomes([3])])
    box.step()

    assert box.sink.reports == before + 2


def test_a_resync_is_asked_of_the_reader_of_its_table_once(box: Outbox) -> None:
    asked: list[TableName] = []
    box.store.on_resync(lambda name: not asked.append(name))
    request_resync(box.database, "db.t")
    box.step()
    box.step()

    assert asked == [TABLE]


def test_a_resync_of_a_table_that_nobody_reads_is_said(
    box: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    request_resync(box.database, "db.t")
    box.step()

    assert "no reader of this table runs" in capsys.readouterr().out


def test_orders_that_could_not_be_read_are_followed_later(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries.redrive(box.database, [2])
    real, calls = store.entries.totals, []

    def fails_once(connection: object) -> object:
        calls.append(connection)
        if len(calls) == 1:
            raise store.OutboxUnavailable("the disk is full")
        return real(connection)  # type: ignore[arg-type]

    monkeypatch.setattr(store.entries, "totals", fails_once)
    box.step()
    box.step()

    assert len(calls) == 2
    assert box.sink.numbers == [1, 2, 3, 4, 2]


def test_orders_are_heard_again_when_the_transaction_that_read_them_fails_in_its_end(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entries.redrive(box.database, [2])
    commit, failed = box.engine.dialect.do_commit, []

    def fails_once(connection: Any) -> None:
        if not failed:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            failed.append(error)
            raise error
        commit(connection)

    monkeypatch.setattr(box.engine.dialect, "do_commit", fails_once)
    box.step()
    box.step()

    assert failed
    assert box.sink.numbers == [1, 2, 3, 4, 2]
    capfd.readouterr()
