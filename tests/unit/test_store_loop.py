"""The store's thread: what is handed in is committed before it ends."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import retry
from replicator.domain.model import Outcomes
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.outbox.sqlite import connection as connection_module
from replicator.retry import Backoff
from replicator.store import store
from replicator.store.pausing import OutboxLimits
from tests.support.feed_elements import add
from tests.support.outbox import Outbox, outbox
from tests.support.wait import wait_until


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(connection_module, "_BUSY_TIMEOUT_MS", 1)
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.001, 0.005))
    with outbox(tmp_path) as made:
        yield made


class Running:
    """A store that runs on a thread of its own."""

    def __init__(self, box: Outbox) -> None:
        self.error: BaseException | None = None
        self._store = box.store
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._store.run()
        except (OutboxUnavailable, OutboxUnusable) as err:
            self.error = err

    def stop(self) -> None:
        self._store.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def locked(box: Outbox) -> Iterator[None]:
    """Hold the write lock, as another program may; waits for the store's own transactions."""
    with contextlib.closing(sqlite3.connect(box.path, timeout=20)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        yield


def count(box: Outbox) -> int:
    return int(box.rows("SELECT count(*) FROM entries")[0][0])


def test_everything_handed_in_before_the_stop_is_committed_and_settled(box: Outbox) -> None:
    running = Running(box)
    box.inbox.put(box.opened())
    box.inbox.put(box.ready())
    for number in range(50):
        box.inbox.put(box.batch(add({"id": number})))
    box.inbox.close()
    assert box.inbox.wait_until_drained(20)
    assert count(box) == 50
    assert box.sink.numbers == list(range(1, 51))
    box.inbox.report(Outcomes(range(1, 41), 0))
    running.stop()

    assert running.error is None
    assert count(box) == 10


def test_the_outbox_is_closed_when_the_loop_ends_however_it_ends(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_step: object) -> None:
        raise OutboxUnusable("a row that was never written here")

    monkeypatch.setattr(box.outbox, "commit", refuse)
    running = Running(box)
    box.inbox.put(box.opened())
    running.thread.join(20)

    with pytest.raises(OutboxUnusable, match="closed"):
        box.outbox.totals()


def test_it_goes_on_by_itself_when_the_outbox_can_be_written_again(
    box: Outbox, capfd: pytest.CaptureFixture[str]
) -> None:
    running = Running(box)
    with locked(box):
        box.inbox.put(box.opened())
        box.inbox.put(box.batch(add({"id": 1})))
        wait_until(lambda: box.store.status.error is not None)
        assert "locked" in str(box.store.status.error)
        assert box.sink.entries == []
    wait_until(lambda: box.store.status.error is None and bool(box.sink.entries))
    running.stop()

    assert box.sink.numbers == [1]
    assert running.error is None
    capfd.readouterr()


def test_a_stop_does_not_wait_for_an_outbox_that_cannot_be_written(
    box: Outbox, capfd: pytest.CaptureFixture[str]
) -> None:
    running = Running(box)
    with locked(box):
        box.inbox.put(box.opened())
        wait_until(lambda: box.store.status.error is not None)
        running.stop()

    assert isinstance(running.error, OutboxUnavailable)
    capfd.readouterr()


def test_freed_space_is_given_back_when_there_is_nothing_to_do(box: Outbox) -> None:
    body = "x" * 2000
    box.step(box.opened(), box.ready())
    box.step(box.batch(*(add({"id": n, "v": body}) for n in range(300))))
    box.settle(*box.sink.entries)
    before = box.rows("PRAGMA freelist_count")[0][0]
    for _ in range(4):
        box.step()

    assert before > 100
    assert box.rows("PRAGMA freelist_count")[0][0] == 0


def test_it_ends_when_its_file_was_removed_while_in_use(box: Outbox) -> None:
    running = Running(box)
    box.inbox.put(box.opened())
    wait_until(lambda: box.store.status.feeds[1].opened_at is not None)
    Path(str(box.engine.url.database)).unlink()
    wait_until(lambda: running.error is not None)

    assert isinstance(running.error, OutboxUnusable)
    assert "removed" in str(running.error)


def test_it_ends_when_it_finds_the_outbox_unusable(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_step: object) -> None:
        raise OutboxUnusable("a row that was never written here")

    monkeypatch.setattr(box.outbox, "commit", refuse)
    running = Running(box)
    assert box.inbox.put(box.opened())
    running.thread.join(20)

    assert isinstance(running.error, OutboxUnusable)
    assert box.sink.entries == []


def test_a_change_is_handed_over_without_waiting_for_company(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_SETTLE_DELAY_SECONDS", 60)
    monkeypatch.setattr(store, "_IDLE_SECONDS", 60)
    running = Running(box)
    box.inbox.put(box.opened())
    box.inbox.put(box.ready())
    for number in range(1, 6):
        box.inbox.put(box.batch(add({"id": number})))
        wait_until(lambda: box.sink.numbers[-1:] == [number])  # noqa: B023 -- at once
    running.stop()

    assert running.error is None


def test_a_reading_does_not_wait_for_company(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SETTLE_DELAY_SECONDS", 60)
    monkeypatch.setattr(store, "_IDLE_SECONDS", 60)
    box.step(box.opened(), box.batch(add({"id": 1})), box.ready())
    running = Running(box)
    box.sink.reading = 2
    box.inbox.report(Outcomes(reading=2))
    wait_until(lambda: box.sink.numbers == [1, 1])
    running.stop()

    assert running.error is None


def test_readers_wait_while_the_outbox_is_full(tmp_path: Path) -> None:
    with outbox(tmp_path, limits=OutboxLimits(2, 1 << 40)) as box:
        running = Running(box)
        box.inbox.put(box.opened())
        box.inbox.put(box.ready())
        box.inbox.put(box.batch(add({"id": 1}), add({"id": 2})))
        wait_until(lambda: box.store.status.is_full)
        assert box.inbox.put(box.batch(add({"id": 3})))
        wait_until(lambda: box.rows("SELECT state FROM feeds") == [("paused",)])
        assert count(box) == 2
        box.inbox.report(Outcomes([1, 2], 0))
        wait_until(lambda: box.sink.numbers == [1, 2, 3])
        wait_until(lambda: box.rows("SELECT state FROM feeds") == [("ready",)])
        running.stop()

        assert running.error is None
