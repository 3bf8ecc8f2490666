"""Which parked entries are said to be superseded, and how many are looked at together."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from replicator.domain.model import Failure, Outcomes
from replicator.operators import entries as changes
from tests.support.feed_elements import change, initial
from tests.support.outbox import Outbox, outbox

A1, A2, A3 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": "a", "v": 3}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """Entries 1 and 2 of document "a", both parked."""
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(initial(A1)), made.ready())
        made.step(made.batch(change(A1, A2)))
        failures = [Failure(number, "too_large", "it is too large") for number in (1, 2)]
        made.step(outcomes=[Outcomes(parked=failures)])
        yield made


def url(box: Outbox) -> str:
    return f"sqlite:///{box.path}"


def verdicts(done: Sequence[changes.Change]) -> dict[int, bool | None]:
    return {each.entry.id: each.is_superseded for each in done}


def test_a_state_that_came_back_is_not_superseded(box: Outbox) -> None:
    box.step(box.batch(change(A2, A3), change(A3, A2)))
    box.settle(*(entry for entry in box.sink.entries if entry.number in (3, 4)))

    # 1 made A1 and 2 made A2, which is the state again; 3 and 4 are gone.
    assert verdicts(changes.redrive(url(box), [1, 2])) == {1: False, 2: False}


def test_redriving_all_looks_for_so_many_documents_at_once(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_LOOK_ENTRIES", 1)
    box.step(box.batch(change(A2, A3)))
    box.settle(*(entry for entry in box.sink.entries if entry.number == 3))

    steps = [verdicts(step) for step in changes.redrive_all(url(box))]

    assert steps == [{1: True}, {2: True}]
    assert box.rows("SELECT first_entry, last_entry FROM operations") == [(1, 1), (2, 2)]
