"""The product, broken on purpose: each mistake is one that somebody could make.

A checker that finds nothing proves something only when it finds these. Each names the promises
that it breaks.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from pika import spec

from replicator.domain.completeness import Completeness
from replicator.domain.model import Entry, Failure, Origin
from replicator.domain.seen_rows import SeenRows
from replicator.domain.window import Window
from replicator.outbox.sqlite import entries, index
from replicator.publisher.delivery import Delivery
from replicator.publisher.incoming import Incoming
from replicator.publisher.publisher import Publisher
from replicator.publisher.reports import Reports
from replicator.source.reader import FeedReader
from replicator.store import capture, store
from replicator.store import orders as requests
from replicator.store.capture import Capture
from replicator.store.inbox import Inbox, Work
from replicator.store.store import Store
from tests.faults.pipeline.simulated_link import SimulatedLink


class Mutant(NamedTuple):
    """A way to break the product, and what the checker must say."""

    break_it: Callable[[pytest.MonkeyPatch], None]
    says: str
    focus: tuple[str, ...] = ()  # actions that are more frequent, where it takes a coincidence


class _Once:
    """A sink that takes each entry only once."""

    def __init__(self, behind: Any) -> None:
        self.behind = behind
        self.last = 0

    @property
    def room(self) -> int:
        return int(self.behind.room)

    def offer(self, offered: Sequence[Entry]) -> None:
        new = [entry for entry in offered if entry.number > self.last]
        self.last = max([self.last, *(entry.number for entry in new)])
        self.behind.offer(new)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def hands_over_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    sinks: list[_Once] = []
    append, connect = entries.append, Store.connect

    def connect_once(self: Store, sink: Any) -> None:
        sinks[:] = [_Once(sink)]
        connect(self, sinks[0])

    def append_and_offer(connection: Any, new: Sequence[Entry]) -> None:
        append(connection, new)
        sinks[0].offer(new)

    patch.setattr(Store, "connect", connect_once)
    patch.setattr(entries, "append", append_and_offer)


def settles_before_the_confirm(patch: pytest.MonkeyPatch) -> None:
    take = Delivery.take

    def take_and_settle(self: Delivery, frames: Any) -> list[bytes]:
        before = set(self.window._in_flight)
        writes = take(self, frames)
        flights = self.window._in_flight
        self._settled += [flights[tag].entry for tag in flights if tag not in before]
        return writes

    patch.setattr(Delivery, "take", take_and_settle)


def forgets_the_sweep(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capture, "deletes", lambda *_, **__: ([], []))


def keeps_the_marks_of_a_broken_snapshot(patch: pytest.MonkeyPatch) -> None:
    marks = SeenRows()
    patch.setattr(capture, "SeenRows", lambda: marks)


def takes_new_documents_for_deleted_ones(patch: pytest.MonkeyPatch) -> None:
    reconcile = capture.reconcile

    def forgetful(*arguments: Any, **options: Any) -> Any:
        plan = reconcile(*arguments, **options)
        new = {row.row_id for row in plan.inserted.values()}
        return plan._replace(seen=[row for row in plan.seen if row not in new])

    patch.setattr(capture, "reconcile", forgetful)


def changes_the_index_without_entries(patch: pytest.MonkeyPatch) -> None:
    add = Capture._add

    def add_some(self: Capture, feed: Any, drafts: Any, at: int) -> Any:
        return add(self, feed, [d for d in drafts if d.origin is not Origin.RESYNC], at)

    patch.setattr(Capture, "_add", add_some)


def appends_entries_without_the_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(index, "apply", lambda *_: None)


def forgets_the_highest_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "save_last_entry", lambda *_: None)


def repeats_the_commit_with_what_follows_it(patch: pytest.MonkeyPatch) -> None:
    def step(self: Store, connection: Any, work: Any, now: int) -> None:
        def both() -> None:
            self.commit(connection, work, now)
            self.follow_up(connection, is_idle=not work)

        self._retrying(both)

    patch.setattr(Store, "step", step)


def believes_it_has_caught_up(patch: pytest.MonkeyPatch) -> None:
    hand_over = Store._hand_over

    def hand_over_a_page(self: Store, connection: Any) -> None:
        hand_over(self, connection)
        self._has_caught_up = True

    patch.setattr(Store, "_hand_over", hand_over_a_page)


def never_lets_readers_go_on(patch: pytest.MonkeyPatch) -> None:
    hold = Inbox.hold

    def hold_only(self: Inbox, *, is_held: bool) -> None:
        if is_held:
            hold(self, is_held=True)

    patch.setattr(Inbox, "hold", hold_only)


def resends_in_another_order(patch: pytest.MonkeyPatch) -> None:
    lost = Window.lost

    def lost_and_shuffled(self: Window) -> list[Entry]:
        before = len(self._ready)
        in_flight = lost(self)
        again = [self._ready.popleft() for _ in range(len(self._ready) - before)]
        self._ready.extendleft(again)
        return in_flight

    patch.setattr(Window, "lost", lost_and_shuffled)


def pipelines_a_document(patch: pytest.MonkeyPatch) -> None:
    def take(self: Window, now: float) -> list[Entry]:
        while self._retry and self._retry[0][0] <= now:
            self._ready.append(self._retry.pop(0)[2])
        taken = []
        while self._ready and self._has_place(self._ready[0]):
            taken.append(self._send(self._ready.popleft(), now))
        return taken

    def settle(self: Window, entry: Entry) -> None:
        self._bytes -= len(entry.body)
        self._attempts.pop(entry.number, None)

    patch.setattr(Window, "take", take)
    patch.setattr(Window, "settle", settle)


def takes_only_one_of_many_confirms(patch: pytest.MonkeyPatch) -> None:
    land = Window._land
    patch.setattr(Window, "_land", lambda self, tag, *, multiple: land(self, tag, multiple=False))  # noqa: ARG005


def takes_a_nack_for_an_ack(patch: pytest.MonkeyPatch) -> None:
    on_confirm = Delivery.on_confirm

    def on_ack(self: Delivery, method: Any) -> None:
        on_confirm(self, spec.Basic.Ack(method.delivery_tag, method.multiple))

    patch.setattr(Delivery, "on_confirm", on_ack)


def drops_what_no_queue_takes(patch: pytest.MonkeyPatch) -> None:
    def drop(self: Delivery, entry: Entry, *_: Any) -> None:
        self.window.settle(entry)
        self._settled.append(entry)

    patch.setattr(Delivery, "_unroutable", drop)


def parks_the_first_suspect(patch: pytest.MonkeyPatch) -> None:
    def suspect(self: Delivery, text: str) -> None:
        if suspects := self.window.lost():
            self.window.remove([suspects[0].number])
            self._parked.append(Failure(suspects[0].number, "too_large", text))

    patch.setattr(Delivery, "suspect", suspect)


def publishes_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedLink, "is_fenced", False)


def dates_gaps_too_late(patch: pytest.MonkeyPatch) -> None:
    note = FeedReader._note

    def note_now(self: FeedReader, err: BaseException) -> None:
        self._completeness = Completeness()
        note(self, err)

    patch.setattr(FeedReader, "_note", note_now)


def publishes_again_what_is_not_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reports, "without", lambda _self, entries: list(entries))


def overtakes_what_waits(patch: pytest.MonkeyPatch) -> None:
    borrow = Inbox._borrow

    def borrow_anyway(self: Inbox, item: Any) -> Work | None:
        waiting, self._items = self._items, deque()
        try:
            return borrow(self, item)
        finally:
            self._items = waiting

    patch.setattr(Inbox, "_borrow", borrow_anyway)


def forgets_what_a_reader_could_not_commit(patch: pytest.MonkeyPatch) -> None:
    step = Store._step_elsewhere
    patch.setattr(Store, "_step_elsewhere", lambda self, *work: step(self, *work) or True)


def publishes_before_what_waits(patch: pytest.MonkeyPatch) -> None:
    offer = Publisher.offer

    def offer_at_once(self: Publisher, offered: Sequence[Entry]) -> None:
        if not self._is_open or self._lock.locked():
            return offer(self, offered)
        before, self._incoming = self._incoming, Incoming()
        try:
            return offer(self, offered)
        finally:
            self._incoming = before

    patch.setattr(Publisher, "offer", offer_at_once)


def withdraws_what_was_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(requests, "_take_away", lambda *_: None)


MUTANTS = [
    Mutant(
        hands_over_before_the_commit, "G1: published before its commit|G2: it does not converge|G5"
    ),
    Mutant(settles_before_the_confirm, "G1: entries were deleted|G5: the totals"),
    Mutant(forgets_the_sweep, "G2"),
    Mutant(keeps_the_marks_of_a_broken_snapshot, "G2"),
    Mutant(takes_new_documents_for_deleted_ones, "G2"),
    Mutant(changes_the_index_without_entries, "G2"),
    Mutant(appends_entries_without_the_index, "G2"),
    Mutant(
        forgets_the_highest_number, "G1: an entry's number was used twice|died of OutboxUnusable"
    ),
    Mutant(
        repeats_the_commit_with_what_follows_it,
        "G2|G5: the totals|died of ValueError",
        ("churn", "fail_commits"),
    ),
    Mutant(believes_it_has_caught_up, "G2: it does not converge|G3|died of"),
    Mutant(never_lets_readers_go_on, "G2: it does not converge"),
    Mutant(resends_in_another_order, "G3"),
    Mutant(pipelines_a_document, "G3", ("churn", "refuse", "publish")),
    Mutant(takes_only_one_of_many_confirms, "G1: a confirm was not understood"),
    Mutant(takes_a_nack_for_an_ack, "G1"),
    Mutant(drops_what_no_queue_takes, "G1", ("unbind", "publish")),
    Mutant(parks_the_first_suspect, "G1: parked for nothing"),
    Mutant(publishes_without_a_fence, "G3", ("churn", "lose_link", "publish")),
    Mutant(dates_gaps_too_late, "G4: missed, and in no gap"),
    Mutant(
        publishes_again_what_is_not_committed,
        "G3: published after it was settled|G3: the last is not the newest",
        ("churn", "change_their_mind", "interpose", "publish"),
    ),
    Mutant(overtakes_what_waits, "G2|G3|died of"),
    Mutant(forgets_what_a_reader_could_not_commit, "G2|G5", ("rest", "follow", "fail_commits")),
    Mutant(publishes_before_what_waits, "G2|G3", ("rest", "churn", "keep_loop_busy")),
    Mutant(
        withdraws_what_was_taken_back,
        "G3|G2: it does not converge",
        ("churn", "change_their_mind", "publish"),
    ),
]
