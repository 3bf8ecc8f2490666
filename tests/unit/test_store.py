"""The store's promises: commits that fail, limits, and what reaches the publisher."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import retry
from replicator.domain.feed_element import Change
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Cause, Failure, Outcomes
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.operators.feeds import request_resync
from replicator.retry import Backoff
from replicator.store import store
from replicator.store.inbox import Work
from replicator.store.pausing import OutboxLimits
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import SECOND, Outbox, outbox, table


def doc(number: int, value: int = 0) -> dict[str, object]:
    return {"id": number, "v": value}


def adds(first: int, last: int) -> list[Change]:
    return [add(doc(number)) for number in range(first, last + 1)]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.ready())
        yield made


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[object]:
    """Let the next call of a verb fail as on a full disk; returns what has failed, as it does."""
    real = getattr(owner, name)
    failed: list[object] = []

    def failing(*arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(name)
            raise OutboxUnavailable("the disk is full")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)
    return failed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once what failed."""
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.001, 0.005))


# Commits that fail.


def everything(box: Outbox) -> tuple[object, ...]:
    """Return what is stored, what the publisher has, and what the metrics and the status say."""
    tables = ("entries", "documents", "feeds", "gaps", "meta")
    columns = {"meta": "last_entry"}
    return (
        [box.rows(f"SELECT {columns.get(table, '*')} FROM {table}") for table in tables],
        box.sink.said(),
        box.sink.numbers,
        box.store.status.totals,
        box.feed().state,
        box.value("replicator_gaps_total", table="db.t", cause="disconnect"),
        box.value("replicator_snapshot_documents_total", table="db.t"),
    )


def step_that_fails(path: Path, statement: int | None) -> tuple[bool, tuple[object, ...]]:
    """Commit, in an outbox of its own, a step of which a statement fails the first time."""
    with outbox(path) as box:
        box.step(box.opened(), box.batch(initial(doc(1)), initial(doc(2))), box.ready())
        box.step(box.closed())
        box.now += SECOND
        items = (
            box.opened(),
            box.batch(initial(doc(1, 1)), add(doc(3)), remove(doc(3)), add(doc(4))),
            box.batch(change(doc(4), doc(4, 1)), add(doc(5)), remove(doc(5)), add(doc(5, 1))),
            box.ready(),
        )
        work = Work(items, [Outcomes([1], 10)])
        with box.connection.failing(statement) as failure:
            try:
                box.store.commit(work, box.now)
            except OutboxUnavailable:
                assert len(box.sink.entries) == 2
                assert box.feed().state is FeedState.LOST
                box.store.commit(work, box.now)
        box.step()
        return failure.has_happened, everything(box)


def test_a_commit_that_failed_anywhere_is_decided_again_with_the_same_result(
    tmp_path: Path,
) -> None:
    _, expected = step_that_fails(tmp_path / "whole", None)
    statement, has_failed = 1, True
    while has_failed:
        has_failed, found = step_that_fails(tmp_path / str(statement), statement)
        assert found == expected, f"statement {statement} failed"
        statement += 1

    assert statement > 10
    assert FeedState.READY in expected


@pytest.mark.parametrize("verb", ["look_up", "commit", "page", "count_unseen"])
def test_a_step_of_which_any_part_fails_captures_its_changes_once(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    box.step(box.closed())
    box.read_again()
    box.sink.room = 0
    box.sink.entries.clear()
    box.step(box.batch(add(doc(9))), box.opened(), box.batch(initial(doc(9))))
    failed = fail_once(monkeypatch, box.outbox, verb)
    box.sink.room = 10_000
    box.step(box.batch(add(doc(1)), change(doc(1), doc(1, 1))), box.ready())
    box.step()

    assert failed
    assert box.rows("SELECT id, op FROM entries") == [(1, "create"), (2, "create"), (3, "update")]
    assert box.sink.numbers == [1, 2, 3]
    assert box.store.status.totals.pending == 3
    assert box.store.status.error is None
    assert box.feed().state is FeedState.READY
    assert "outbox can be written again" in capfd.readouterr().out


@pytest.mark.parametrize("verb", ["version", "orders_after", "tables", "totals", "tidy"])
def test_a_failure_after_the_commit_does_not_capture_the_changes_twice(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    failed = fail_once(monkeypatch, box.outbox, verb)
    request_resync(box.database, "db.t")
    box.step(box.batch(add(doc(1)), change(doc(1), doc(1, 1))), box.closed())
    box.step()

    assert failed
    assert box.rows("SELECT id, op FROM entries") == [(1, "create"), (2, "update")]
    assert box.sink.numbers == [1, 2]
    assert box.store.status.totals.pending == 2
    assert box.store.status.error is None
    capfd.readouterr()


def test_a_crash_before_the_commit_leaves_outbox_and_index_untouched(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, box.outbox, "commit")
    with pytest.raises(OutboxUnavailable):
        box.store.commit(Work([box.batch(*adds(1, 3))], []), box.now)
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
    assert box.value("replicator_outbox_bytes") == sum(sizes)
    assert box.value("replicator_outbox_entries", state="pending") == 4
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


@pytest.mark.parametrize("is_failing", [False, True])
def test_other_processes_see_which_feeds_pause(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *,
    is_failing: bool,
) -> None:
    def states() -> list[str]:
        return [row[0] for row in box.rows("SELECT state FROM feeds ORDER BY id")]

    names = [table()._replace(name=table().name._replace(table=name)) for name in ("t", "u")]
    with outbox(tmp_path, *names, limits=OutboxLimits(3, 1 << 30)) as box:
        box.step(box.opened(), box.ready(), box.opened(feed_id=2), box.ready(2))
        box.store.commit(Work([box.batch(*adds(1, 3))], []), box.now)
        failed = fail_once(monkeypatch, box.outbox, "commit") if is_failing else ["not asked"]
        box.step()
        assert failed
        assert states() == ["paused", "paused"]
        box.step(box.closed(feed_id=2))
        assert states() == ["paused", "lost"]
        box.settle(*box.sink.entries)
        assert states() == ["ready", "lost"]
        assert box.rows("SELECT captured, last_error FROM feeds") == [(3, None), (0, "lost")]
    capfd.readouterr()


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
        box.store.commit(Work([], [Outcomes([1, 2, 3, 4], 164)]), box.now)
        box.store.follow_up(is_idle=False)
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
        again = box.restart(has_channel=False)
        again.step(again.opened())

        assert again.store.status.is_full
        assert again.feed().state is FeedState.PAUSED
        again.close()
