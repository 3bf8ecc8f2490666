"""A disk that is full, or nearly: what is settled must not wait for what cannot be captured."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import retry
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Failure, Outcomes
from replicator.errors import OutboxUnavailable
from replicator.operators.entries import park
from replicator.outbox.port import Committed, Step
from replicator.outbox.sqlite import room
from replicator.retry import Backoff
from replicator.store import handover, store, sweep
from tests.support.feed_elements import add
from tests.support.outbox import Outbox, outbox

_GIB = 1 << 30


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.001, 0.005))
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(), made.ready())
        yield made


def count(box: Outbox) -> int:
    return int(box.rows("SELECT count(*) FROM entries")[0][0])


def test_confirms_are_settled_while_captures_find_no_room(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    box.step(box.batch(add({"id": 1}), add({"id": 2})))
    first, second = box.sink.entries
    commit = box.outbox.commit
    left: list[int] = []

    def no_room_twice(step: Step) -> Committed:
        if step.entries and len(left) < 2:
            left.append(count(box))
            if len(left) == 1:
                # A confirm that comes while the disk is full.
                box.inbox.report(Outcomes([second.number], len(second.body)))
            raise OutboxUnavailable("the disk is full")
        return commit(step)

    monkeypatch.setattr(box.outbox, "commit", no_room_twice)
    box.step(box.batch(add({"id": 3})), outcomes=[Outcomes([first.number], len(first.body))])

    assert left == [2, 0], "the second attempt found both confirmed entries settled"
    assert box.rows("SELECT id FROM entries") == [(3,)]
    assert box.sink.numbers == [1, 2, 3]
    assert box.store.status.totals.pending == 1
    capfd.readouterr()


def test_a_volume_with_little_room_pauses_the_feeds_until_there_is_twice_as_much(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    free = 50 << 20

    def disk_usage(_path: Path) -> Any:
        return shutil._ntuple_diskusage(100 * _GIB, 0, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(room.shutil, "disk_usage", disk_usage)
    box.step(box.batch(add({"id": 1, "text": "x" * (256 << 10)})))
    assert box.feed().state is FeedState.PAUSED
    assert box.store.status.is_full
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    free = 200 << 20
    box.settle(*box.sink.entries)
    assert box.feed().state is FeedState.PAUSED
    free = 300 << 20
    box.step(outcomes=[Outcomes()])
    assert box.feed().state is FeedState.READY
    capfd.readouterr()


def test_small_steps_leave_the_room_on_the_volume_to_the_look_of_each_second(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(
        room, "is_disk_low", lambda path, *, was_low: bool(asked.append(path)) or not was_low
    )
    box.step(box.batch(add({"id": 1})))
    assert (asked, box.feed().state) == ([], FeedState.READY)
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    box.step(box.batch(add({"id": 2})))
    assert (len(asked), box.feed().state) == (1, FeedState.PAUSED)
    capfd.readouterr()


def test_of_a_small_volume_only_a_tenth_is_kept_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = 10 << 20

    def disk_usage(_path: Path) -> Any:
        return shutil._ntuple_diskusage(48 << 20, 0, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(room.shutil, "disk_usage", disk_usage)
    assert not room.is_disk_low(tmp_path, was_low=False)
    free = 4 << 20
    assert room.is_disk_low(tmp_path, was_low=False)


def test_parked_entries_do_not_hide_the_oldest_pending_one(box: Outbox) -> None:
    box.step(box.batch(add({"id": 1}), add({"id": 2})))
    first, second = box.sink.entries
    box.step(outcomes=[Outcomes(parked=[Failure(first.number, "too_large", "16 MiB")])])
    assert box.store.status.totals.oldest_captured_at == second.captured_at
    box.settle(second)
    assert box.store.status.totals.oldest_captured_at is None
    box.step(box.batch(add({"id": 3})))
    assert box.store.status.totals.oldest_captured_at == box.sink.entries[-1].captured_at


def test_feeds_go_on_when_a_volume_has_room_again_though_nothing_is_left_to_settle(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    is_low = True
    monkeypatch.setattr(room, "is_disk_low", lambda _path, *, was_low: is_low)  # noqa: ARG005
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    box.step(box.batch(add({"id": 1})))
    box.settle(*box.sink.entries)
    assert box.feed().state is FeedState.PAUSED
    is_low = False
    box.step()

    assert box.feed().state is FeedState.READY
    capfd.readouterr()


@pytest.fixture
def swept(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """Twenty-five documents in the index of a feed that was lost."""
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    box.step(box.batch(*(add({"id": number}) for number in range(100, 125))))
    box.step(box.closed())
    return box


@pytest.mark.parametrize("what", ["sweep", "tidy"])
def test_confirms_are_settled_while_something_else_finds_no_room(
    swept: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    """Without it the disk would stay full: nobody else gives room back."""
    box = swept
    if what == "sweep":
        box.step(box.opened(), box.ready())
        box.step()  # it is counted, except for its last page
    commit, tidy = box.outbox.commit, box.outbox.tidy
    confirmed = list(box.sink.entries)
    failures: list[int] = []

    def fails_while_it_is_full() -> None:
        if count(box) < 25:
            return
        failures.append(count(box))
        if len(failures) == 1:
            size = sum(len(entry.body) for entry in confirmed)
            box.inbox.report(Outcomes([entry.number for entry in confirmed], size))
        raise OutboxUnavailable("the disk is full")

    def no_room_to_sweep(step: Step) -> Committed:
        if step.entries:
            fails_while_it_is_full()
        return commit(step)

    def no_room_to_tidy() -> None:
        fails_while_it_is_full()
        tidy()

    monkeypatch.setattr(
        box.outbox,
        *(("commit", no_room_to_sweep) if what == "sweep" else ("tidy", no_room_to_tidy)),
    )
    box.step()

    assert failures == [25]
    assert count(box) == (10 if what == "sweep" else 0)
    capfd.readouterr()


def test_nothing_is_handed_over_while_not_even_settling_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.0, 0.0))
    monkeypatch.setattr(handover, "_PAGE_ENTRIES", 2)
    with outbox(tmp_path, room=2) as box:
        box.step(box.opened(), box.ready())
        box.step(box.batch(*(add({"id": n}) for n in range(1, 10))))
        assert box.sink.numbers == [1, 2]
        box.sink.room = 100
        real, offered = box.outbox.commit, []

        def commit(step: Step) -> Committed:
            if step.outcomes and len(offered) < 6:
                offered.append(list(box.sink.numbers))
                raise OutboxUnavailable("the disk is full")
            return real(step)

        monkeypatch.setattr(box.outbox, "commit", commit)
        box.settle(*box.sink.entries)

        assert offered == [[1, 2]] * 6
        assert box.rows("SELECT min(id) FROM entries") == [(3,)]
        assert capfd.readouterr().out.count("can be written again") == 1


def test_orders_are_heard_while_captures_find_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.0, 0.0))
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    with outbox(tmp_path) as box:
        box.step(box.opened(), box.ready())
        box.step(box.batch(add({"id": 1})))
        real, forgotten = box.outbox.commit, []

        def commit(step: Step) -> Committed:
            if step.entries and len(forgotten) < 3:
                if not forgotten:
                    park(box.database, [1])
                forgotten.append(box.sink.forgotten)
                raise OutboxUnavailable("the disk is full")
            return real(step)

        monkeypatch.setattr(box.outbox, "commit", commit)
        box.step(box.batch(add({"id": 2})))

        assert forgotten == [0, 1, 1]
        capfd.readouterr()
