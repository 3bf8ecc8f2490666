"""A disk that is full, or nearly: what is settled must not wait for what cannot be captured."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.domain.feed_state import FeedState
from replicator.domain.model import Failure, Outcomes
from replicator.domain.retry import Backoff
from replicator.store import pausing, store
from tests.support.feed_elements import add
from tests.support.outbox import Outbox, outbox

_GIB = 1 << 30


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(store, "OUTBOX", Backoff(0.001, 0.005))
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(), made.ready())
        yield made


def committed(box: Outbox) -> int:
    """Count the committed entries, beside the transaction that is under way."""
    with contextlib.closing(sqlite3.connect(box.path)) as reader:
        return int(reader.execute("SELECT count(*) FROM entries").fetchone()[0])


def test_confirms_are_settled_while_captures_find_no_room(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    box.step(box.batch(add({"id": 1}), add({"id": 2})))
    first, second = box.sink.entries
    append = store.entries.append
    left: list[int] = []

    def no_room_twice(connection: Any, new: Any) -> None:
        if new and len(left) < 2:
            left.append(committed(box))
            if len(left) == 1:
                # A confirm that comes while the disk is full.
                box.inbox.report(Outcomes([second.number], len(second.body)))
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = 13
            raise error
        append(connection, new)

    monkeypatch.setattr(store.entries, "append", no_room_twice)
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

    monkeypatch.setattr(pausing.shutil, "disk_usage", disk_usage)
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
        store, "is_disk_low", lambda path, *, was_full: bool(asked.append(path)) or not was_full
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

    monkeypatch.setattr(pausing.shutil, "disk_usage", disk_usage)
    assert not pausing.is_disk_low(tmp_path, was_full=False)
    free = 4 << 20
    assert pausing.is_disk_low(tmp_path, was_full=False)


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
    monkeypatch.setattr(store, "is_disk_low", lambda _path, *, was_full: is_low)  # noqa: ARG005
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    box.step(box.batch(add({"id": 1})))
    box.settle(*box.sink.entries)
    assert box.feed().state is FeedState.PAUSED
    is_low = False
    box.step()

    assert box.feed().state is FeedState.READY
    capfd.readouterr()
