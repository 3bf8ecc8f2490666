"""The store's promises: failed transactions, limits, and what reaches the publisher."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.domain.feed_element import Change
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Cause, Failure, Outcomes
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.store import capture, store
from replicator.store.inbox import Work
from replicator.store.pausing import OutboxLimits
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import Outbox, outbox


def doc(number: int, value: int = 0) -> dict[str, object]:
    return {"id": number, "v": value}


def adds(first: int, last: int) -> list[Change]:
    return [add(doc(number)) for number in range(first, last + 1)]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.ready())
        yield made


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let the next call of a function fail as a full disk does."""
    real = getattr(owner, name)
    calls = []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = 13
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)


# Failed transactions.


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (store.entries, "append"),
        (store.entries, "settle"),
        (store.entries, "oldest_pending"),
        (store.index, "apply"),
        (store.index, "remove"),
        (capture.feeds, "save"),
        (capture.feeds, "close_gap"),
    ],
)
def test_a_failed_transaction_is_done_again_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    results = []
    for folder, is_failing in (("whole", False), ("failing", True)):
        with outbox(tmp_path / folder) as box:
            box.step(box.opened(), box.batch(initial(doc(1)), initial(doc(2))), box.ready())
            box.step(box.closed())
            items = (
                box.opened(),
                box.batch(initial(doc(1, 1)), add(doc(3)), remove(doc(3)), add(doc(4))),
                box.ready(),
            )
            work = Work(list(items), [Outcomes([1], 10)])
            with monkeypatch.context() as patched:
                if is_failing:
                    fail_once(patched, owner, name)
                    with pytest.raises(OutboxUnavailable):
                        box.store.commit(box.connection, work, box.now)
                    assert len(box.sink.entries) == 2
                    assert box.feed().state is FeedState.LOST
                box.store.commit(box.connection, work, box.now)
            box.store.follow_up(box.connection, is_idle=False)
            tables = ("entries", "documents", "feeds", "gaps")
            results.append(
                (
                    [box.rows(f"SELECT * FROM {table}") for table in tables],
                    box.rows("SELECT last_entry FROM meta"),
                    box.sink.said(),
                    box.sink.numbers,
                    box.store.status.totals,
                    box.feed().state,
                    box.value("replicator_gaps_total", table="db.t", cause="disconnect"),
                )
            )

    assert results[0] == results[1]
    assert results[0][5] is FeedState.READY


@pytest.mark.parametrize("name", ["_hand_over", "_notice_commands"])
def test_a_failure_after_the_commit_does_not_capture_the_changes_twice(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail_once(monkeypatch, box.store, name)
    monkeypatch.setattr(store, "OUTBOX", store.OUTBOX._replace(initial_seconds=0.0))
    real = getattr(box.store, name)

    def translated(*arguments: Any) -> None:
        with store.translated():
            real(*arguments)

    monkeypatch.setattr(box.store, name, translated)
    box.step(box.batch(add(doc(1)), change(doc(1), doc(1, 1))), box.closed())

    assert box.rows("SELECT id, op FROM entries") == [(1, "create"), (2, "update")]
    assert box.sink.numbers == [1, 2]
    assert box.store.status.totals.pending == 2
    assert box.store.status.error is None


def test_a_crash_before_the_commit_leaves_outbox_and_index_untouched(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, store.entries, "oldest_pending")
    with pytest.raises(OutboxUnavailable):
        box.store.commit(box.connection, Work([box.batch(*adds(1, 3))], []), box.now)
    again = box.restart()

    assert again.rows("SELECT count(*) FROM entries") == [(0,)]
    assert again.rows("SELECT count(*) FROM documents") == [(0,)]
    again.step(again.opened(), again.batch(*(initial(doc(n)) for n in (1, 2, 3))), again.ready())
    assert again.sink.numbers == [1, 2, 3]
    again.close()


def test_numbers_are_never_used_again_after_everything_was_confirmed(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 5)))
    box.settle(*box.sink.entries)
    assert box.rows("SELECT count(*) FROM entries") == [(0,)]
    again = box.restart()
    again.step(again.opened(), again.batch(add(doc(9))))

    assert again.sink.numbers[-1] == 6
    assert again.store.outbox_id == box.store.outbox_id
    again.close()


# What reaches the publisher.


def test_entries_that_were_not_confirmed_are_published_again_after_a_restart(
    box: Outbox,
) -> None:
    box.step(box.batch(*adds(1, 5)))
    box.settle(box.sink.entries[1], box.sink.entries[4])
    again = box.restart()
    again.step()

    assert again.sink.numbers == [1, 3, 4]
    assert again.sink.said() == [box.sink.said()[position] for position in (0, 2, 3)]
    again.close()


def test_a_publisher_that_was_behind_gets_everything_in_order_and_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    with outbox(tmp_path, room=0) as box:
        box.step(box.opened(), box.ready())
        written = 0
        for _ in range(60):
            box.sink.room += rng.choice([0, 0, 700, 2500])
            many = rng.choice([0, 1, 300, 900])
            box.step(*([box.batch(*adds(written + 1, written + many))] if many else []))
            written += many
        box.sink.room = 1_000_000
        while len(box.sink.entries) < written:
            box.step()
        box.step(box.batch(add(doc(0))))

        assert box.sink.numbers == list(range(1, written + 2))
        assert written > 5000


def test_nothing_is_read_back_once_the_publisher_drains(box: Outbox) -> None:
    box.sink.room = 0
    box.step(box.batch(*adds(1, 3)))
    box.store.stop_handing_over()
    box.sink.room = 100_000
    box.step()

    assert box.sink.entries == []


def test_what_is_parked_or_refused_is_recorded_and_not_published_again(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 3)))
    box.step(
        outcomes=[
            Outcomes(
                failed=[Failure(1, "nacked", "no", 2)], parked=[Failure(2, "too_large", "16 MiB")]
            )
        ]
    )

    assert box.rows("SELECT id, state, attempts, reason, last_error FROM entries") == [
        (1, "pending", 2, None, "nacked: no"),
        (2, "parked", 1, "too_large", "16 MiB"),
        (3, "pending", 0, None, None),
    ]
    assert box.store.status.totals[:2] == (2, 1)
    assert box.value("replicator_entries_parked_total", reason="too_large") == 1
    assert box.value("replicator_outbox_entries", state="parked") == 1
    again = box.restart()
    again.step()
    assert again.sink.numbers == [1, 3]
    assert again.store.status.totals[:3] == box.store.status.totals[:3]
    again.close()


def test_totals_follow_what_is_captured_and_confirmed(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 4)))
    first = box.sink.entries[0]
    sizes = [len(entry.body) for entry in box.sink.entries]
    assert box.store.status.totals[:3] == (4, 0, sum(sizes))
    assert box.store.status.totals.oldest_captured_at == first.captured_at
    box.settle(*box.sink.entries)

    assert box.store.status.totals == (0, 0, 0, None)
    assert box.value("replicator_outbox_bytes") == 0


def test_what_another_process_drops_is_noticed(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.step(box.batch(*adds(1, 4)))
    with box.engine.begin() as other:
        other.exec_driver_sql("DELETE FROM entries WHERE id = 2")
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    box.step()

    assert box.store.status.totals.pending == 3


def test_an_outbox_that_was_removed_while_in_use_ends_the_store(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    box.step()
    box.path.unlink()

    with pytest.raises(OutboxUnusable, match="removed or replaced"):
        box.step()


# Limits.


def test_feeds_pause_at_the_limit_and_go_on_only_well_below_it(tmp_path: Path) -> None:
    with outbox(tmp_path, limits=OutboxLimits(20, 1 << 30)) as box:
        box.step(box.opened(), box.ready())
        box.step(box.batch(*adds(1, 20)))
        assert box.store.status.is_full
        assert box.feed().state is FeedState.PAUSED
        assert box.value("replicator_feed_state", table="db.t", state="paused") == 1
        box.inbox.put(box.batch(add(doc(21))))
        assert not box.inbox.gather(timeout=0)

        box.settle(box.sink.entries[0])
        assert box.store.status.is_full
        box.settle(box.sink.entries[1])
        assert not box.store.status.is_full
        assert box.feed().state is FeedState.READY
        assert len(box.inbox.gather(timeout=0).items) == 1


def test_the_bytes_of_the_outbox_are_limited_too(tmp_path: Path) -> None:
    with outbox(tmp_path, limits=OutboxLimits(1000, 200)) as box:
        box.step(box.opened(), box.ready())
        box.step(box.batch(*adds(1, 9)))
        assert box.feed().state is FeedState.PAUSED
        box.settle(*box.sink.entries[:6])

        assert box.feed().state is FeedState.READY


def test_a_snapshot_pauses_and_goes_on_as_a_snapshot(tmp_path: Path) -> None:
    with outbox(tmp_path, limits=OutboxLimits(3, 1 << 30)) as box:
        box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(4))))
        assert box.feed().state is FeedState.PAUSED
        box.step(box.ready())
        assert box.feed().state is FeedState.PAUSED
        box.settle(*box.sink.entries)
        assert box.feed().state is FeedState.INITIALIZING
        box.step()

        assert box.feed().state is FeedState.READY


def test_a_feed_that_is_lost_while_paused_is_repaired_afterwards(tmp_path: Path) -> None:
    with outbox(tmp_path, limits=OutboxLimits(3, 1 << 30)) as box:
        box.step(box.opened(), box.ready())
        box.step(box.batch(*adds(1, 3)))
        box.step(box.closed(Cause.OVERFLOW))
        assert box.feed().state is FeedState.LOST
        box.settle(*box.sink.entries)
        assert box.feed().state is FeedState.LOST
        box.step(box.opened(), box.batch(initial(doc(3))), box.ready())

        assert [op for op, _, _ in box.sink.said()[3:]] == ["delete", "delete"]


def test_a_full_outbox_is_full_again_after_a_restart(tmp_path: Path) -> None:
    with outbox(tmp_path, limits=OutboxLimits(3, 1 << 30)) as box:
        box.step(box.opened(), box.ready())
        box.step(box.batch(*adds(1, 3)))
        again = box.restart(room=0)
        again.step(again.opened())

        assert again.store.status.is_full
        assert again.feed().state is FeedState.PAUSED
        again.close()
