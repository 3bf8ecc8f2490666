"""A comparison that finds too much gone: what goes out, what is held back, and what ends it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from replicator.domain.feed_state import FeedState
from replicator.domain.guard import DeleteLimit
from replicator.domain.items import TableDropped, TableFound
from replicator.errors import NothingHeldBack
from replicator.operators import feeds as operators
from replicator.operators import listing
from replicator.outbox import orders
from replicator.store import store, sweep
from replicator.store.pausing import OutboxLimits
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import TABLE, Outbox, outbox, table

GUARDED = table()._replace(delete_limit=DeleteLimit(3))
NAME = str(TABLE)


def doc(number: int, value: int = 0) -> dict[str, object]:
    return {"id": f"{number:03d}", "v": value}


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 4)
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    with outbox(tmp_path, GUARDED) as made:
        compare(made, *range(10))
        yield made


def compare(box: Outbox, *numbers: int, table_id: str = "T1") -> None:
    """Open the feed, with these documents in its snapshot, and let it be swept."""
    if box.feed().state is not FeedState.LOST:
        box.step(box.closed())
    box.step(box.opened(table_id), box.batch(*(initial(doc(n)) for n in numbers)), box.ready())
    settle(box)


def settle(box: Outbox) -> None:
    for _ in range(8):
        box.step()
    assert not box.store._sweeping()


def ops(box: Outbox) -> list[tuple[str, str]]:
    return [(op, (body["new_val"] or body["old_val"])["id"]) for op, _, body in box.sink.said()]


def deletes(box: Outbox) -> list[str]:
    return [key for op, key in ops(box) if op == "delete"]


def accept(box: Outbox) -> None:
    operators.accept_deletes(box.database, NAME, operators.held_back(box.database, NAME))


def held(box: Outbox) -> tuple[FeedState, float | None, list[Any]]:
    """Return where the feed stands by its state, its metric and its open gaps."""
    gauge = box.value("replicator_feed_guarded_deletes", table=NAME)
    gaps = box.rows("SELECT deleted FROM gaps WHERE closed_at IS NULL")
    return box.feed().state, gauge, gaps


def test_too_many_deletes_are_held_back_and_nothing_else(box: Outbox) -> None:
    with capture_logs() as logs:
        box.step(box.closed())
        box.step(
            box.opened(),
            box.batch(initial(doc(8, 1)), initial(doc(9)), initial(doc(20))),
            box.ready(),
        )
        settle(box)

    assert ops(box)[10:] == [("update", "008"), ("create", "020")]
    assert held(box) == (FeedState.GUARDED, 8, [(0,)])
    assert box.rows("SELECT count(*) FROM documents") == [(11,)]
    (warning,) = [each for each in logs if each["log_level"] == "warning"]
    assert warning["event"] == "too many documents are gone: their deletes are held back"
    assert (warning["table"], warning["deletes"], warning["documents"]) == (NAME, 8, 10)
    assert f"replicator feed accept-deletes {NAME}" in warning["hint"]


def test_up_to_the_limit_they_go_as_ever(box: Outbox) -> None:
    compare(box, *range(3, 10))

    assert deletes(box) == ["000", "001", "002"]
    assert held(box) == (FeedState.READY, 0, [])


def test_live_changes_go_on_in_order_and_a_live_delete_is_one(box: Outbox) -> None:
    compare(box)
    box.step(
        box.batch(
            add(doc(4, 1)),  # held back as a delete: it is there after all
            change(doc(4, 1), doc(4, 2)),
            add(doc(30)),
            remove(doc(30)),
            remove(doc(4, 2)),
        )
    )

    assert ops(box)[10:] == [
        ("update", "004") if op == "update" else (op, key)
        for op, key in [
            ("create", "004"),
            ("update", "004"),
            ("create", "030"),
            ("delete", "030"),
            ("delete", "004"),
        ]
    ]
    assert box.feed().state is FeedState.GUARDED
    assert box.rows("SELECT count(*) FROM documents") == [(9,)]


def test_a_comparison_that_finds_them_again_ends_it_by_itself(box: Outbox) -> None:
    compare(box, table_id="other")
    compare(box, *range(10))

    assert ops(box)[10:] == []
    assert held(box) == (FeedState.READY, 0, [])
    assert box.feed().guard is None
    assert box.rows("SELECT guard FROM feeds") == [(None,)]


def test_a_restart_compares_again_and_holds_them_back_again(box: Outbox) -> None:
    compare(box)
    again = box.restart()
    assert held(again) == (FeedState.LOST, 10, [(0,)]), "the alert does not stop meanwhile"
    compare(again)

    assert ops(again)[10:] == []
    assert held(again) == (FeedState.GUARDED, 10, [(0,)])
    again.close()


def test_a_restart_does_not_thin_them_out(tmp_path: Path) -> None:
    """Another server has many documents of its own, which are published."""
    share = table()._replace(delete_limit=DeleteLimit(3, DeleteLimit(0).share + 1 / 2))
    with outbox(tmp_path, share) as box:
        compare(box, *range(10))
        compare(box, *range(100, 200), table_id="other")
        assert box.feed().state is FeedState.GUARDED
        again = box.restart()
        compare(again, *range(100, 200), table_id="other")
        assert again.feed().state is FeedState.GUARDED
        assert deletes(again) == []
        again.close()


def test_what_is_found_in_pieces_is_not_deleted_in_pieces(box: Outbox) -> None:
    """Each page of four has few enough, and each restart comes in the middle of the count."""
    for _ in range(4):
        box.step(box.closed())
        box.step(box.opened(), box.batch(initial(doc(1)), initial(doc(5))), box.ready())
        box.step()
        assert deletes(box) == []
    settle(box)

    assert box.feed().state is FeedState.GUARDED


def test_an_operator_lets_them_go(box: Outbox) -> None:
    compare(box, 1)
    box.step(box.batch(add(doc(5, 7))))
    accept(box)
    with capture_logs() as logs:
        settle(box)

    assert deletes(box) == [f"{n:03d}" for n in range(10) if n not in (1, 5)]
    assert held(box) == (FeedState.READY, 0, [])
    assert box.rows("SELECT deleted FROM gaps ORDER BY id DESC LIMIT 1") == [(8,)]
    said = [each for each in logs if each["event"].startswith("an operator accepted deletes that")]
    assert [(each["table"], each["deletes"]) for each in said] == [(NAME, 9)]
    with box.database.reading() as connection:
        (order,) = orders.newest(connection, limit=1)
    assert (order.action, order.table, order.deletes) == ("accept-deletes", NAME, 9)


def test_an_operator_lets_them_go_while_nothing_runs(box: Outbox) -> None:
    compare(box, 1)
    accept(box)
    again = box.restart()
    compare(again, 1)

    assert len(deletes(again)) == 9
    assert held(again) == (FeedState.READY, 0, [])
    again.close()


def test_more_than_was_accepted_is_held_back_again(box: Outbox) -> None:
    compare(box, 1, 2, 3)
    accept(box)
    again = box.restart()
    compare(again, 1)
    assert deletes(again) == []
    assert held(again) == (FeedState.GUARDED, 9, [(0,)])
    # And what was accepted is used up.
    compare(again, 1, 2, 3)

    assert deletes(again) == []
    assert held(again) == (FeedState.GUARDED, 7, [(0,)])
    again.close()


def test_what_was_accepted_of_one_table_is_not_of_another(box: Outbox) -> None:
    compare(box, 1, 2, 3)
    accept(box)
    again = box.restart()
    compare(again, 1, 2, 3, table_id="other")

    assert deletes(again) == []
    assert again.feed().state is FeedState.GUARDED
    again.close()


def test_what_was_accepted_is_over_when_a_comparison_is_complete(box: Outbox) -> None:
    compare(box, 1, 2, 3)
    accept(box)
    again = box.restart()
    compare(again, *range(10))
    compare(again, 1, 2, 3)

    assert deletes(again) == []
    assert again.feed().state is FeedState.GUARDED
    again.close()


def test_an_order_that_comes_when_another_comparison_is_held_changes_nothing(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(box, 1)
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 3600.0)
    accept(box)
    compare(box, 2)
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    with capture_logs() as logs:
        settle(box)

    assert deletes(box) == []
    assert held(box) == (FeedState.GUARDED, 9, [(0,)])
    assert any("or not the same" in each["event"] for each in logs)


def test_an_order_that_comes_while_the_next_comparison_is_read_is_for_that_one(
    box: Outbox,
) -> None:
    compare(box, 1)
    box.step(box.closed())
    box.step(box.opened(), box.batch(initial(doc(1))))
    accept(box)
    box.step(box.batch(initial(doc(2))))
    box.step(box.ready())
    settle(box)

    assert len(deletes(box)) == 8
    assert box.feed().state is FeedState.READY


def test_an_order_is_not_for_another_table_that_was_opened_before_it_was_heard(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(box, 1)
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 3600.0)
    accept(box)
    box.step(box.closed())
    box.step(box.opened("other"), box.batch(initial(doc(1))))
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    box.step()
    box.step(box.ready())
    settle(box)

    assert deletes(box) == []
    assert held(box) == (FeedState.GUARDED, 9, [(0,)])


def test_an_order_that_comes_too_late_changes_nothing(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(box, 1)
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 3600.0)
    accept(box)
    compare(box, *range(10))
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    settle(box)
    assert box.feed().state is FeedState.READY
    compare(box, 1)

    assert deletes(box) == []
    assert box.feed().state is FeedState.GUARDED


def test_an_accepted_sweep_that_a_crash_interrupted_goes_on(box: Outbox) -> None:
    compare(box)
    accept(box)
    box.step()
    box.step()
    done = deletes(box)
    assert 0 < len(done) < 10
    again = box.restart()
    compare(again)

    pending = again.rows("SELECT key FROM entries WHERE op = 'delete'")
    assert len(pending) == len(set(pending)) == 10
    assert held(again) == (FeedState.READY, 0, [])
    again.close()


def test_nothing_can_be_accepted_where_nothing_is_held_back(box: Outbox) -> None:
    with pytest.raises(NothingHeldBack, match=f"no deletes of {NAME} are held back"):
        operators.held_back(box.database, NAME)
    compare(box, 1)
    shown = operators.held_back(box.database, NAME)
    compare(box)
    with pytest.raises(NothingHeldBack, match=r"10 deletes of db\.t are held back by now, not 9"):
        operators.accept_deletes(box.database, NAME, shown)
    compare(box, *range(10))
    with pytest.raises(NothingHeldBack):
        operators.accept_deletes(box.database, NAME, shown)

    assert box.rows("SELECT count(*) FROM operations") == [(0,)]


def test_a_guarded_feed_pauses_and_stays_guarded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with outbox(tmp_path, GUARDED, limits=OutboxLimits(12, 1 << 40)) as box:
        compare(box, *range(10))
        box.settle(*box.sink.entries)
        compare(box)
        box.step(box.batch(*(add(doc(n)) for n in range(50, 62))))
        assert box.feed().state is FeedState.PAUSED
        box.settle(*box.sink.entries[10:])
        box.step()
        assert box.feed().state is FeedState.GUARDED
    capfd.readouterr()


def test_a_guarded_feed_that_is_accepted_while_it_is_paused_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    with outbox(tmp_path, GUARDED, limits=OutboxLimits(12, 1 << 40)) as box:
        compare(box, *range(10))
        box.settle(*box.sink.entries)
        compare(box)
        box.step(box.batch(*(add(doc(n)) for n in range(50, 62))))
        accept(box)
        box.step()
        assert box.feed().state is FeedState.PAUSED
        assert deletes(box) == []
        box.settle(*box.sink.entries[10:])
        box.step()
        assert len(deletes(box)) == 10
        assert box.feed().state is FeedState.READY
    capfd.readouterr()


def test_a_dropped_table_is_guarded_until_it_is_accepted(box: Outbox) -> None:
    box.step(box.closed())
    box.step(TableDropped(TABLE, box.now))
    settle(box)
    assert held(box) == (FeedState.GUARDED, 10, [(0,)])
    assert box.store.not_dropped(["db"]) == [TABLE]
    again = box.restart()
    again.step(TableDropped(TABLE, again.now))
    settle(again)
    assert again.feed().state is FeedState.GUARDED
    accept(again)
    for _ in range(8):
        again.step()

    assert len(deletes(again)) == 10
    assert again.store.status.feeds == {}
    assert again.rows("SELECT state, guard FROM feeds") == [("dropped", None)]
    assert again.value("replicator_feed_guarded_deletes", table=NAME) is None
    again.close()


def test_a_dropped_table_that_comes_back_is_compared(box: Outbox) -> None:
    box.step(box.closed())
    box.step(TableDropped(TABLE, box.now))
    settle(box)
    box.step(TableFound(GUARDED, box.now))
    assert box.feed().state is FeedState.LOST
    compare(box, *range(10))

    assert ops(box)[10:] == []
    assert held(box) == (FeedState.READY, 0, [])


def test_a_first_snapshot_is_guarded_too(tmp_path: Path) -> None:
    """It was begun at the right server, and is begun again at a wrong one."""
    with outbox(tmp_path, GUARDED) as box:
        box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(10))))
        compare(box, table_id="other")

        assert deletes(box) == []
        assert box.feed().state is FeedState.GUARDED


def test_a_baseline_does_not_count_what_it_deleted_itself(tmp_path: Path) -> None:
    baseline = table(is_baseline=True)._replace(delete_limit=DeleteLimit(3))
    with outbox(tmp_path, baseline) as box:
        box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(6))))
        box.step(box.batch(*(remove(doc(n)) for n in range(5))), box.closed())
        compare(box, 5)

        assert len(deletes(box)) == 5
        assert box.feed().state is FeedState.READY


def test_the_guard_can_be_off(tmp_path: Path) -> None:
    with outbox(tmp_path, table()._replace(delete_limit=None)) as box:
        compare(box, *range(10))
        with capture_logs() as logs:
            compare(box)

        assert len(deletes(box)) == 10
        assert box.feed().state is FeedState.READY
        assert not [each for each in logs if "many documents" in each["event"]]


def test_many_deletes_that_may_go_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SHARE_APPLIES_ABOVE", 5)
    with outbox(tmp_path, table()._replace(delete_limit=None)) as box:
        compare(box, *range(10))
        with capture_logs() as logs:
            compare(box, 1)

        (told,) = [each for each in logs if "capturing their deletes" in each["event"]]
        assert (told["log_level"], told["deletes"], told["documents"]) == ("info", 9, 10)


def test_a_stopped_service_s_feed_is_listed_as_it_was_left(box: Outbox) -> None:
    compare(box, 1)
    with box.database.reading() as connection:
        (feed,) = listing.list_feeds(connection)

    assert feed.state is FeedState.GUARDED
    assert feed.guard is not None
    assert feed.state_since == feed.guard.at
    assert feed.guard.keys == tuple(f'"{n:03d}"' for n in range(10) if n != 1)


def test_a_baseline_is_used_up_by_the_comparison_that_is_guarded(box: Outbox) -> None:
    operators.take_as_baseline(box.database, NAME)
    again = box.restart()
    compare(again, 0, 1)
    assert again.feed().state is FeedState.GUARDED

    again.step(again.closed())  # meanwhile a document changes
    again.step(again.opened(), again.batch(initial(doc(0, 7)), initial(doc(1))), again.ready())
    settle(again)

    assert ("update", "000") in ops(again)


def test_what_comes_after_a_guarded_first_baseline_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 4)
    with outbox(tmp_path, GUARDED._replace(is_baseline=True)) as first:
        first.step(first.opened(), first.batch(*(initial(doc(n)) for n in range(10))))
        again = first.restart()  # in the middle of the snapshot
        compare(again, 0, 1)
        assert again.feed().state is FeedState.GUARDED

        compare(again, 0, 1, 50)  # created while the feed was lost

        assert ops(again) == [("create", "050")]


def test_what_was_shown_of_one_table_is_not_accepted_of_another(box: Outbox) -> None:
    compare(box)
    shown = operators.held_back(box.database, NAME)
    compare(box, 0, table_id="T2")

    with pytest.raises(NothingHeldBack, match="another table by now"):
        operators.accept_deletes(box.database, NAME, shown)

    settle(box)
    assert deletes(box) == []


def test_a_guarded_change_of_fields_is_not_warned_of_as_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 4)
    changed = GUARDED._replace(projection='{"exclude":["v"]}')
    with outbox(tmp_path, GUARDED) as first:
        compare(first, *range(10))
        guarded = first.restart(changed)
        compare(guarded, 0, 1)
        with capture_logs() as logs:
            guarded.restart(changed)

    said = [line["event"] for line in logs if "fields of a table" in line["event"]]
    assert said == ["fields of a table changed, and its documents are not all compared yet"]
