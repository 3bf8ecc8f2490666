"""The checker finds what it is there for: each case breaks a run that was without fault."""

import dataclasses
from collections.abc import Callable

import pytest

from tests.faults.checker import Facts, Gap, check, story
from tests.faults.recorder import Delivery
from tests.faults.workload import Write

OUTBOX = "abcdefgh"


def delivery(entry: int, key: str, old: int | None, new: int | None, **other: object) -> Delivery:
    op = "create" if old is None else "delete" if new is None else "update"
    made = Delivery(
        OUTBOX, entry, "t1", key, op, "feed", old, new, is_redelivered=False, at=100.0 + entry
    )
    return made._replace(**other)


def write(key: str, old: int | None, new: int | None, at: float) -> Write:
    return Write("t1", key, old, new, at - 0.01, at)


def sound() -> Facts:
    """Two documents: one was updated unseen in a gap, the other was deleted."""
    return Facts(
        outbox=OUTBOX,
        last_entry=5,
        truth={"t1": {"1": {"id": 1, "v": 12}}},
        copy={"t1": {"1": {"id": 1, "v": 12}}},
        index={"t1": {"1"}},
        history=[
            delivery(1, "1", None, 10),
            delivery(2, "2", None, 20),
            delivery(3, "2", 20, None),
            delivery(4, "1", None, 11, op="update", origin="resync"),
            delivery(4, "1", None, 11, op="update", origin="resync"),
            delivery(5, "1", 11, 12),
        ],
        writes=[
            write("1", None, 10, 101),
            write("2", None, 20, 102),
            write("2", 20, None, 103),
            write("1", 10, 15, 103.5),  # nothing tells of it: it lies in the gap
            write("1", 15, 11, 103.9),
            write("1", 11, 12, 105),
        ],
        gaps=[Gap("t1", "disconnect", 103.2, 104.2, created=0, updated=1, deleted=0)],
        first_ready_at={"t1": 100.0},
    )


def test_a_run_without_fault_is_accepted() -> None:
    assert check(sound()) == []


def without(facts: Facts, position: int) -> Facts:
    history = [*facts.history[:position], *facts.history[position + 1 :]]
    return dataclasses.replace(facts, history=history)


def gap(facts: Facts, **changes: object) -> Facts:
    return dataclasses.replace(facts, gaps=[facts.gaps[0]._replace(**changes)])


def history(facts: Facts, *order: int) -> Facts:
    return dataclasses.replace(facts, history=[facts.history[position] for position in order])


BROKEN: dict[str, tuple[str, Callable[[Facts], Facts]]] = {
    "an entry that was never delivered": ("G1", lambda f: without(f, 1)),
    "an entry that nobody numbered": ("G1", lambda f: dataclasses.replace(f, last_entry=4)),
    "a copy that lags": ("G2", lambda f: dataclasses.replace(f, copy={"t1": {}})),
    "a delete that was missed": (
        "G2",
        lambda f: dataclasses.replace(f, copy={"t1": {**f.copy["t1"], "2": {"id": 2, "v": 20}}}),
    ),
    "an index that keeps what is gone": (
        "G2",
        lambda f: dataclasses.replace(f, index={"t1": {"1", "2"}}),
    ),
    "a comparison that repeats a state": (
        "G2",
        lambda f: dataclasses.replace(
            f,
            last_entry=6,
            history=[*f.history, delivery(6, "1", None, 12, op="update", origin="resync")],
            gaps=[f.gaps[0]._replace(updated=2)],
        ),
    ),
    "first deliveries out of order": ("G3", lambda f: history(f, 0, 2, 1, 3, 4, 5)),
    "an old state delivered last": ("G3", lambda f: history(f, 0, 1, 2, 3, 5, 4)),
    "a gap that nobody closed": ("G4", lambda f: gap(f, closed_at=None)),
    "a gap that ends before it begins": ("G4", lambda f: gap(f, closed_at=103.0)),
    "a gap that counts wrongly": ("G4", lambda f: gap(f, updated=0)),
    "a gap that begins too late": ("G4", lambda f: gap(f, opened_at=103.8)),
    "no gap at all": ("G4", lambda f: dataclasses.replace(f, gaps=[])),
    "a delete and a new life, of which only the life is told": (
        "G4",
        lambda f: dataclasses.replace(
            f,
            truth={"t1": {**f.truth["t1"], "2": {"id": 2, "v": 21}}},
            copy={"t1": {**f.copy["t1"], "2": {"id": 2, "v": 21}}},
            index={"t1": {"1", "2"}},
            history=[each for each in f.history if each.entry != 3] + [delivery(3, "2", None, 21)],
            writes=[*f.writes, write("2", None, 21, 103.1)],
        ),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_it_finds(case: str) -> None:
    promise, break_it = BROKEN[case]
    broken = break_it(sound())

    assert promise in {each.promise for each in check(broken)}


def test_a_story_tells_the_document_in_order_of_time() -> None:
    broken = gap(sound(), opened_at=103.8)
    (violation,) = check(broken)
    lines = story(broken, violation, [(103.3, "-- kill replicator begins")]).splitlines()

    assert "no gap explains" in lines[0]
    assert [line.split(" ", 1)[1][:14] for line in lines[1:6]] == [
        "delivered: ent",
        "written: None ",
        "-- kill replic",
        "written: 10 ->",
        "gap opens (dis",
    ]
