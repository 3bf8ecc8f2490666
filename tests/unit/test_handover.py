"""Readings: what the publisher gets of the outbox, and when."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from replicator import retry
from replicator.domain.feed_element import Change
from replicator.domain.model import Entry, Outcomes
from replicator.errors import OutboxUnavailable
from replicator.retry import Backoff
from replicator.store import handover, store
from tests.support.feed_elements import add
from tests.support.outbox import FakeSink, Outbox, outbox


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once what failed."""
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.001, 0.005))


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """An outbox whose publisher has no channel yet, and pages of three entries."""
    monkeypatch.setattr(handover, "_PAGE_ENTRIES", 3)
    with outbox(tmp_path, has_channel=False) as made:
        made.step(made.opened(), made.ready())
        yield made


def adds(first: int, last: int) -> list[Change]:
    return [add({"id": number}) for number in range(first, last + 1)]


def ask(box: Outbox, reading: int, *settled: int) -> None:
    """Let the publisher ask for a reading, after it has reported what is settled."""
    box.sink.reading = reading
    box.step(outcomes=[Outcomes(settled), Outcomes(reading=reading)])


def test_nothing_is_offered_or_read_before_a_reading_was_asked_for(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box.outbox, "page", lambda *_, **__: pytest.fail("was read"))
    box.step(box.batch(*adds(1, 5)))
    box.step()

    assert box.sink.entries == []
    assert box.store._patience() > 0, "there is nothing to do but to wait for the channel"


def test_a_reading_goes_from_the_oldest_entry_on_in_pages(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 7)))
    ask(box, 1)
    assert box.sink.numbers == [1, 2, 3]
    box.step()
    assert box.sink.numbers == [1, 2, 3, 4, 5, 6]
    box.step()

    assert box.sink.numbers == [1, 2, 3, 4, 5, 6, 7]


def test_a_page_is_read_only_when_there_is_room_for_it(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 7)))
    box.sink.room = 2
    ask(box, 1)
    assert box.sink.numbers == []
    box.sink.room = 4
    box.step()
    box.step()

    assert box.sink.numbers == [1, 2, 3], "there is room for one more, and not for a page"


def test_what_is_captured_while_a_reading_goes_on_comes_after_what_is_older(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 4)))
    ask(box, 1)
    box.step(box.batch(*adds(5, 8)))
    assert box.sink.numbers == [1, 2, 3, 4, 5, 6]
    box.step(box.batch(*adds(9, 9)))
    assert box.sink.numbers == list(range(1, 10))
    box.step()
    box.step(box.batch(*adds(10, 14)))

    assert box.sink.numbers == list(range(1, 15)), "caught up: straight from the commit"


def test_a_publisher_that_falls_behind_again_gets_the_rest_from_the_outbox_and_once(
    box: Outbox,
) -> None:
    ask(box, 1)
    box.step(box.batch(*adds(1, 2)))
    assert box.sink.numbers == [1, 2], "straight from the commit"
    box.sink.room = 3
    box.step(box.batch(*adds(3, 6)))
    assert box.sink.numbers == [1, 2, 3, 4, 5], "there is no room for all, but for a page"
    box.step(box.batch(*adds(7, 8)))
    assert box.sink.numbers == [1, 2, 3, 4, 5], "nothing comes before what is older"
    box.sink.room = 100
    for _ in range(3):
        box.step()
    box.step(box.batch(*adds(9, 9)))

    assert box.sink.numbers == list(range(1, 10))


def test_what_is_captured_in_the_step_that_begins_a_reading_comes_once(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 2)))
    ask(box, 1)
    assert box.sink.numbers == [1, 2]
    box.sink.reading = 2
    box.sink.entries.clear()
    # The commit is offered to the old reading, whose publisher has forgotten it.
    dropped = DroppingSink(box.sink)
    box.store.connect(dropped)
    box.step(box.batch(*adds(3, 3)), outcomes=[Outcomes(reading=2)])
    box.step(box.batch(*adds(4, 5)))
    box.step()

    assert box.sink.numbers == [1, 2, 3, 4, 5]
    assert [entry.number for entry in dropped.dropped] == [3]


class DroppingSink:
    """Drops offers of another reading than the present one, as the publisher does."""

    def __init__(self, sink: FakeSink) -> None:
        self._sink = sink
        self.dropped: list[Entry] = []

    @property
    def room(self) -> int:
        return self._sink.room

    def offer(self, entries: Sequence[Entry], reading: int) -> None:
        if reading == self._sink.reading:
            self._sink.offer(entries, reading)
        else:
            self.dropped += entries

    def forget(self) -> None:
        self._sink.forget()


def test_outcomes_and_a_reading_in_one_gathering_are_settled_before_it_is_read(
    box: Outbox,
) -> None:
    box.step(box.batch(*adds(1, 3)))
    ask(box, 1)
    box.sink.entries.clear()
    box.sink.reading = 2
    box.step(outcomes=[Outcomes([1]), Outcomes(reading=2), Outcomes([3])])

    assert box.sink.numbers == [2]


def test_of_two_readings_in_one_gathering_the_last_one_counts(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 2)))
    box.sink.reading = 3
    box.step(outcomes=[Outcomes(reading=2), Outcomes(reading=3)])

    assert box.sink.numbers == [1, 2]


def test_a_reading_that_begins_before_the_last_one_ended_begins_at_the_oldest_again(
    box: Outbox,
) -> None:
    box.step(box.batch(*adds(1, 7)))
    ask(box, 1)
    box.step()
    box.sink.entries.clear()
    ask(box, 2, 1, 2)
    box.step()

    assert box.sink.numbers == [3, 4, 5, 6, 7]


def test_a_page_that_could_not_be_read_is_read_again_and_offered_once(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    box.step(box.batch(*adds(1, 2)))
    real, failed = box.outbox.page, []

    def page(*arguments: object, **options: object) -> object:
        if len(failed) < 2:
            failed.append(arguments)
            raise OutboxUnavailable("the disk is full")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(box.outbox, "page", page)
    ask(box, 1)

    assert len(failed) == 2
    assert box.sink.numbers == [1, 2]
    capfd.readouterr()


def test_a_reading_begins_while_captures_find_no_room(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    box.step(box.batch(*adds(1, 2)))
    real, offered = box.outbox.commit, []

    def commit(step: object) -> object:
        if step.entries and len(offered) < 2:  # type: ignore[attr-defined]
            offered.append(list(box.sink.numbers))
            raise OutboxUnavailable("the disk is full")
        return real(step)  # type: ignore[arg-type]

    monkeypatch.setattr(box.outbox, "commit", commit)
    box.step(box.batch(*adds(3, 3)), outcomes=[Outcomes([1]), Outcomes(reading=1)])

    assert offered == [[], [2]]
    assert box.sink.numbers == [2, 3]
    capfd.readouterr()


def test_an_orderly_stop_hands_over_what_was_just_captured(box: Outbox) -> None:
    box.step(box.batch(*adds(1, 5)))
    box.store.stop_handing_over()
    assert not box.store.has_handed_over
    ask(box, 1)
    box.step()

    assert box.sink.numbers == [1, 2, 3, 4, 5]
    assert box.store.has_handed_over


def test_an_orderly_stop_leaves_a_backlog_to_the_next_start(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_PAGE_ENTRIES", 2)
    box.step(box.batch(*adds(1, 20)))
    box.store.stop_handing_over()
    ask(box, 1)
    for _ in range(20):
        box.step()

    assert box.sink.numbers == list(range(1, 2 * handover._LAST_PAGES + 1))
    assert box.store.has_handed_over
    assert box.store._patience() > 0


class Publisher:
    """A publisher that confirms, forgets and loses its channel at random."""

    def __init__(self, rng: random.Random) -> None:
        self.reading = 0
        self.is_open = False
        self.reports: list[Outcomes] = []
        self.settled: list[int] = []
        self.of_reading: list[int] = []  # what was offered in this reading
        self._memory: list[Entry] = []  # offered and not confirmed
        self._flying: list[Entry] = []
        self._rng = rng

    @property
    def room(self) -> int:
        return 12 - len(self._memory) if self.is_open else 0

    def offer(self, entries: Sequence[Entry], reading: int) -> None:
        assert 0 < reading <= self.reading, "nobody has asked for this one"
        if reading != self.reading or not self.is_open:
            return
        numbers = [entry.number for entry in entries]
        assert [*self.of_reading, *numbers] == sorted({*self.of_reading, *numbers})
        self.of_reading += numbers
        flying = {entry.number for entry in self._flying}
        self._memory += [entry for entry in entries if entry.number not in flying]

    def forget(self) -> None:
        self._memory.clear()
        self._ask()

    def _ask(self) -> None:
        self.reading += 1
        self.of_reading = []
        self.reports.append(Outcomes(reading=self.reading))

    def turn(self) -> None:
        """Do something that a publisher may do."""
        what = self._rng.choice(["open", "send", "send", "confirm", "confirm", "forget", "lose"])
        if what == "open" and not self.is_open:
            self.is_open = True
            self._ask()
        elif what == "send":
            many = self._rng.randrange(20)
            self._flying += self._memory[:many]
            del self._memory[:many]
        elif what == "confirm":
            self._rng.shuffle(self._flying)
            self._confirm(self._rng.randrange(len(self._flying) + 1))
        elif what == "forget" and self.is_open and self._rng.random() < 0.3:
            self.forget()
        elif what == "lose" and self.is_open and self._rng.random() < 0.3:
            self._flying.clear()
            self._memory.clear()
            self.of_reading = []
            self.reading += 1
            self.is_open = False

    def _confirm(self, many: int) -> None:
        confirmed = [self._flying.pop() for _ in range(many)]
        self.settled += [entry.number for entry in confirmed]
        size = sum(len(entry.body) for entry in confirmed)
        self.reports.append(Outcomes([entry.number for entry in confirmed], size))

    def confirm_all(self) -> None:
        self._flying += self._memory
        self._memory.clear()
        self._confirm(len(self._flying))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_publisher_does_each_reading_has_every_pending_entry_in_order(
    box: Outbox, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # What is confirmed twice, since it was sent twice, is counted again at the next look.
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)
    rng = random.Random(seed)
    publisher = Publisher(rng)
    box.store.connect(publisher)
    written = 0
    for _ in range(100):
        for _ in range(rng.randrange(3)):
            publisher.turn()
        many = rng.choice([0, 0, 1, 8])
        items = [box.batch(*adds(written + 1, written + many))] if many else []
        written += many
        reports, publisher.reports = publisher.reports, []
        # What is reported and what is gathered need not come in one step.
        kept = rng.randrange(len(reports) + 1)
        box.step(*items, outcomes=reports[:kept])
        publisher.reports[:0] = reports[kept:]
    publisher.is_open = True
    publisher.forget()
    while box.store.status.totals.pending:
        reports, publisher.reports = publisher.reports, []
        box.step(outcomes=reports)
        publisher.confirm_all()

    assert written > 100
    assert box.rows("SELECT count(*) FROM entries") == [(0,)]
    assert set(publisher.settled) == set(range(1, written + 1))
