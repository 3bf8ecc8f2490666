"""Looking for deleted documents after a snapshot, page by page, while changes go on."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import retry
from replicator.domain.feed_element import Change
from replicator.domain.feed_state import FeedState
from replicator.domain.model import Outcomes
from replicator.outbox.port import Committed, Step
from replicator.retry import Backoff
from replicator.store import sweep
from replicator.store.inbox import Work
from replicator.store.pausing import OutboxLimits
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import SECOND, Outbox, outbox, table


def doc(number: int, value: int = 0) -> dict[str, object]:
    return {"id": f"{number:03d}", "v": value}


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    with outbox(tmp_path) as made:
        yield made


def load(box: Outbox, many: int) -> None:
    """Capture a table whose feed is then lost."""
    box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(many))), box.ready())
    while box.feed().state is not FeedState.READY:
        box.step()
    box.step(box.closed())


def ops(box: Outbox, after: int) -> list[tuple[str, str]]:
    return [(op, (body["new_val"] or body["old_val"])["id"]) for op, _, body in box.sink.said()][
        after:
    ]


def test_a_feed_is_ready_only_when_every_page_was_looked_at(box: Outbox) -> None:
    load(box, 35)
    box.step(box.opened(), box.ready())
    assert box.feed().state is FeedState.INITIALIZING
    steps = 1
    while box.feed().state is FeedState.INITIALIZING:
        box.step()
        steps += 1

    # Four pages are counted, and four are swept: the first one as soon as all are counted.
    assert steps == 4 + 4 - 1
    assert ops(box, 35) == [("delete", f"{number:03d}") for number in range(35)]
    assert box.rows("SELECT count(*) FROM documents") == [(0,)]


def test_a_table_of_exactly_one_page_ends_too(box: Outbox) -> None:
    load(box, 10)
    box.step(box.opened(), box.ready())
    box.step()

    assert box.feed().state is FeedState.READY
    assert len(ops(box, 10)) == 10


def test_kept_documents_come_into_memory_a_bounded_number_of_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_SWEEP_BYTES", 3_500)
    documents = [{"id": f"{n:03d}", "v": "x" * (9_000 if n == 7 else 1_000)} for n in range(25)]
    with outbox(tmp_path, table(keep_documents=True)) as box:
        box.step(box.opened(), box.batch(*map(initial, documents)), box.ready())
        box.step()
        box.step(box.closed())
        box.step(box.opened(), box.batch(initial(documents[20])), box.ready())
        pages = [len(box.sink.entries) - 25]
        while box.feed().state is FeedState.INITIALIZING:
            box.step()
            pages.append(len(box.sink.entries) - 25 - sum(pages))

        deleted = [body["old_val"] for op, _, body in box.sink.said()[25:] if op == "delete"]
        assert deleted == documents[:20] + documents[21:]
        # One that is larger than all that may come is a page of its own.
        assert pages == [3, 3, 1, 1, 3, 3, 3, 3, 3, 1]


def test_changes_between_pages_are_neither_lost_nor_taken_for_deletes(box: Outbox) -> None:
    load(box, 30)
    box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(0, 30, 3))), box.ready())
    box.step(
        box.batch(
            add(doc(1)),  # behind the sweep: was deleted by it before
            add(doc(29)),  # before the sweep: must not be deleted by it
            change(doc(27), doc(27, 1)),
            remove(doc(24)),  # must not be deleted twice
        )
    )
    while box.feed().state is FeedState.INITIALIZING:
        box.step()

    copy = {f"{number:03d}" for number in range(30)}
    for op, key in ops(box, 30):
        copy.discard(key) if op == "delete" else copy.add(key)
    expected = {f"{number:03d}" for number in range(0, 30, 3)} - {"024"} | {"001", "029"}
    assert copy == expected
    assert {key for (key,) in box.rows("SELECT key FROM documents")} == {
        f'"{key}"' for key in expected
    }
    assert ops(box, 30).count(("delete", "024")) == 1


def test_a_crash_in_the_middle_of_the_sweep_repeats_only_what_is_left(box: Outbox) -> None:
    load(box, 30)
    box.step(box.opened(), box.ready())
    box.settle(*box.sink.entries)
    again = box.restart()
    again.step(again.opened(), again.ready())
    while again.feed().state is FeedState.INITIALIZING:
        again.step()

    deleted = [body["old_val"]["id"] for op, _, body in box.sink.said()[30:] if op == "delete"]
    deleted += [body["old_val"]["id"] for _, _, body in again.sink.said()]
    assert sorted(set(deleted)) == [f"{number:03d}" for number in range(30)]
    assert again.rows("SELECT sum(deleted) FROM gaps") == [(30,)]
    again.close()


def test_a_crash_between_what_made_a_feed_ready_and_its_sweep_loses_no_delete(
    box: Outbox,
) -> None:
    load(box, 15)
    items = [box.opened(), box.batch(initial(doc(3, 1)), initial(doc(4))), box.ready()]
    box.now += SECOND
    box.store.commit(Work(items, []), box.now)
    assert box.rows("SELECT state FROM feeds") == [("initializing",)]
    again = box.restart()
    assert again.feed().state is FeedState.LOST
    again.step(again.opened(), again.batch(initial(doc(3, 1)), initial(doc(4))), again.ready())
    while again.feed().state is not FeedState.READY:
        again.step()

    deleted = [f"{number:03d}" for number in range(15) if number not in (3, 4)]
    assert ops(again, 15) == [("update", "003"), *(("delete", key) for key in deleted)]
    assert again.rows("SELECT cause, updated, deleted, closed_at IS NULL FROM gaps") == [
        ("disconnect", 1, 13, 0)
    ]
    again.close()


def swept(path: Path, statement: int | None) -> tuple[bool, object]:
    """Do a step with two sweeps, in an outbox of its own, of which a statement fails once."""
    names = [table()._replace(name=table().name._replace(table=name)) for name in ("t", "u")]
    with outbox(path, *names) as box:
        for feed_id in (1, 2):
            documents = map(initial, map(doc, range(15)))
            box.step(box.opened(feed_id=feed_id), box.batch(*documents, feed_id=feed_id))
            box.step(box.ready(feed_id))
            box.step()
            box.step(box.closed(feed_id=feed_id))
        items = [each for n in (1, 2) for each in (box.opened(feed_id=n), box.ready(n))]
        with box.connection.failing(statement) as failure:
            box.step(*items)
            box.step()
        after_one = (box.feed(1).state, box.feed(2).state, box.sink.numbers)
        while box.feed(1).state is not FeedState.READY:
            box.step()
        tables = ("entries", "documents", "gaps")
        stored = [box.rows(f"SELECT * FROM {name}") for name in tables]
        return failure.has_happened, (after_one, box.sink.said(), stored)


def test_a_sweep_that_fails_anywhere_is_tried_again_and_publishes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.001, 0.005))
    _, expected = swept(tmp_path / "whole", None)
    assert expected[0][2] == list(range(1, 51)), "each sweeps a page, once both are counted"  # type: ignore[index]
    statement, has_failed = 1, True
    while has_failed:
        has_failed, found = swept(tmp_path / str(statement), statement)
        assert found == expected, f"statement {statement} failed"
        statement += 1

    assert statement > 20
    capfd.readouterr()


def test_a_sweep_that_fills_the_outbox_lets_the_next_one_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    names = [table()._replace(name=table().name._replace(table=name)) for name in ("t", "u")]
    with outbox(tmp_path, *names, limits=OutboxLimits(25, 1 << 40)) as box:
        for feed_id in (1, 2):
            documents = map(initial, map(doc, range(10)))
            box.step(box.opened(feed_id=feed_id), box.batch(*documents, feed_id=feed_id))
            box.step(box.ready(feed_id))
            box.step(box.closed(feed_id=feed_id))
        box.step(*(each for n in (1, 2) for each in (box.opened(feed_id=n), box.ready(n))))
        assert box.store.status.is_full
        assert len(box.sink.entries) == 30
        assert (box.feed(1).state, box.feed(2).state) == (FeedState.PAUSED, FeedState.PAUSED)
        assert box.feed(2).snapshot is not None
        box.settle(*box.sink.entries)
        box.step()

        assert len(box.sink.entries) == 40
        assert (box.feed(1).state, box.feed(2).state) == (FeedState.READY, FeedState.READY)
    capfd.readouterr()


def test_a_page_is_a_commit_of_its_own(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    load(box, 15)
    commit, steps = box.outbox.commit, []

    def noting(step: Step) -> Committed:
        steps.append((len(step.entries), len(step.outcomes)))
        return commit(step)

    monkeypatch.setattr(box.outbox, "commit", noting)
    live = box.batch(add(doc(40)), add(doc(41)))
    box.step(box.opened(), live, box.ready(), outcomes=[Outcomes([1])])

    box.step()

    assert steps == [(2, 1), (0, 0), (10, 0)]


def test_a_feed_that_is_lost_during_the_sweep_starts_over(box: Outbox) -> None:
    load(box, 30)
    box.step(box.opened(), box.ready())
    box.step(box.closed())
    assert box.feed().state is FeedState.LOST
    before = len(box.sink.entries)
    box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(20, 30))), box.ready())
    while box.feed().state is FeedState.INITIALIZING:
        box.step()

    assert all(op == "delete" for op, _ in ops(box, before))
    assert box.rows("SELECT count(*) FROM documents") == [(10,)]


def test_space_is_not_given_back_while_a_sweep_goes_on(box: Outbox) -> None:
    load(box, 1000)
    box.settle(*box.sink.entries)
    free = box.rows("PRAGMA freelist_count")
    assert free[0][0] > 0
    box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(1000))), box.ready())
    while box.feed().state is FeedState.INITIALIZING:
        box.step()
        assert box.rows("PRAGMA freelist_count") == free

    box.step()
    assert box.rows("PRAGMA freelist_count") < free


class History:
    """Random writes to a table, and the copy that a consumer makes of what is published."""

    def __init__(self, box: Outbox, seed: int) -> None:
        self.box = box
        self.rng = random.Random(seed)
        self.table: dict[str, int] = {}
        self.copy: dict[str, int] = {}
        self._applied = 0

    def write(self) -> Change:
        number, value = self.rng.randrange(40), self.rng.randrange(3)
        key = f"{number:03d}"
        old = self.table.get(key)
        if old is None:
            self.table[key] = value
            return add(doc(number, value))
        if self.rng.random() < 0.4 or old == value:
            del self.table[key]
            return remove(doc(number, old))
        self.table[key] = value
        return change(doc(number, old), doc(number, value))

    def read_snapshot(self) -> None:
        self.box.step(self.box.opened())
        for key in sorted(self.table):
            self.box.step(self.box.batch(initial({"id": key, "v": self.table[key]})))
        self.box.step(self.box.ready())
        for _ in range(self.rng.randrange(10)):
            self.box.step(self.box.batch(self.write()))
        while self.box.feed().state is not FeedState.READY:
            self.box.step()

    def apply(self) -> None:
        for _, _, body in self.box.sink.said()[self._applied :]:
            new, old = body["new_val"], body["old_val"]
            if new is None:
                self.copy.pop(old["id"], None)
            else:
                self.copy[new["id"]] = new["v"]
        self._applied = len(self.box.sink.entries)

    def break_off(self) -> None:
        if self.rng.random() < 0.5:
            self.box.step(self.box.closed())
        else:
            self.box.settle(*self.box.sink.entries)
            self.box = self.box.restart()
            self._applied = 0
        for _ in range(self.rng.randrange(20)):
            self.write()


@pytest.mark.parametrize("seed", range(8))
def test_random_histories_with_crashes_converge(box: Outbox, seed: int) -> None:
    history = History(box, seed)
    for _ in range(12):
        history.read_snapshot()
        history.apply()
        assert history.copy == history.table
        history.break_off()
    history.box.close()


def test_a_baseline_publishes_what_its_sweep_deleted_and_was_made_again_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep of a first comparison that is lost between two pages."""
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    with outbox(tmp_path, table(is_baseline=True)) as box:
        box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(35))))
        box.step(box.closed())
        box.step(box.opened(), box.batch(initial(doc(34))), box.ready())
        for _ in range(3):
            box.step()  # the rest of it is counted
        deleted = ops(box, 0)
        assert 0 < len(deleted) < 34
        box.step(box.closed())
        box.step(box.opened(), box.batch(*(initial(doc(n)) for n in range(35))), box.ready())
        while box.feed().state is not FeedState.READY:
            box.step()

        assert ops(box, len(deleted)) == [("create", key) for _, key in deleted]
        assert box.rows("SELECT count(*) FROM documents WHERE digest = zeroblob(16)") == [(0,)]
