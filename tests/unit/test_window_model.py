"""Order and books hold whatever operators and the broker do, and the model finds mistakes."""

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.domain import window as window_module
from replicator.domain.model import Entry
from replicator.domain.window import Window, WindowLimits
from tests.support.window_model import ACTIONS, Pipe, Step, document

LIMITS = st.builds(WindowLimits, st.integers(1, 5), st.integers(10, 50), st.just(12), st.just(60))


@settings(max_examples=500, deadline=None)
@given(
    limits=LIMITS,
    steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 59)), max_size=80),
)
def test_order_and_books_hold_whatever_happens(limits: WindowLimits, steps: list[Step]) -> None:
    Pipe(limits).play(steps)


# Mistakes that somebody could make.


def takes_every_reading(patch: pytest.MonkeyPatch) -> None:
    offer = Window.offer
    patch.setattr(Window, "offer", lambda self, entries, _: offer(self, entries, self.reading))


def goes_on_with_the_reading_of_a_lost_channel(patch: pytest.MonkeyPatch) -> None:
    lost = Window.lost

    def lost_only(self: Window) -> list[Entry]:
        before = self.reading
        in_flight = lost(self)
        self.reading = before
        return in_flight

    patch.setattr(Window, "lost", lost_only)


def retries_an_orphan(patch: pytest.MonkeyPatch) -> None:
    retry = Window.retry

    def retry_it(self: Window, entry: Entry, now: float) -> None:
        self._orphans.discard(entry.number)
        retry(self, entry, now)

    patch.setattr(Window, "retry", retry_it)


def knows_no_orphans(patch: pytest.MonkeyPatch) -> None:
    forget = Window.forget

    def forget_all(self: Window) -> None:
        forget(self)
        self._orphans.clear()

    patch.setattr(Window, "forget", forget_all)


def frees_the_documents_of_what_is_in_flight(patch: pytest.MonkeyPatch) -> None:
    forget = Window.forget

    def forget_all(self: Window) -> None:
        forget(self)
        self._documents.clear()
        self._orphans.clear()

    patch.setattr(Window, "forget", forget_all)


def forgets_an_orphan_with_its_confirm(patch: pytest.MonkeyPatch) -> None:
    settle = Window.settle

    def settle_it(self: Window, entry: Entry) -> None:
        self._orphans.discard(entry.number)
        settle(self, entry)

    patch.setattr(Window, "settle", settle_it)


def keeps_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    forget = Window.forget

    def forget_the_rest(self: Window) -> None:
        refused = list(self._refused)
        forget(self)
        self._refused = refused

    patch.setattr(Window, "forget", forget_the_rest)


def lets_a_newer_one_go_on(patch: pytest.MonkeyPatch) -> None:
    """What was redriven while a newer one of its document was in flight does not go first."""
    patch.setattr(window_module, "_NUMBER", lambda _entry: 0)


def pipelines_a_document(patch: pytest.MonkeyPatch) -> None:
    def offer(self: Window, entries: Sequence[Entry], reading: int) -> bool:
        for entry in entries if reading == self.reading else ():
            self._documents.setdefault(document(entry), []).append(entry)
            self._ready.append(entry)
            self._count += 1
            self._bytes += len(entry.body)
        return reading == self.reading

    patch.setattr(Window, "offer", offer)


MISTAKES = [
    takes_every_reading,
    goes_on_with_the_reading_of_a_lost_channel,
    retries_an_orphan,
    knows_no_orphans,
    frees_the_documents_of_what_is_in_flight,
    forgets_an_orphan_with_its_confirm,
    keeps_what_was_refused,
    lets_a_newer_one_go_on,
    pipelines_a_document,
]


def play_at_random(games: int, *, checks_books: bool) -> None:
    dice = random.Random(7)  # the same games each time
    for _ in range(games):
        limits = WindowLimits(dice.randint(1, 5), dice.randint(10, 50), 12, 60)
        steps = [(dice.choice(ACTIONS), dice.randrange(60)) for _ in range(100)]
        Pipe(limits).play(steps, checks_books=checks_books)


def test_nothing_is_found_in_the_window_as_it_is() -> None:
    play_at_random(500, checks_books=True)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even by who looks at nothing but what is sent: the books would say it at once."""
    mistake(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        play_at_random(3000, checks_books=False)
