"""The product, broken on purpose: each mistake is one that somebody could make.

A checker that finds nothing proves something only when it finds these. Each names the promises
that it breaks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace
from pika import spec

from replicator.domain.model import Entry, Failure, Origin
from replicator.domain.seen_rows import SeenRows
from replicator.domain.window import Window
from replicator.errors import OutboxUnavailable
from replicator.outbox.sqlite import statements
from replicator.outbox.sqlite.outbox import SqliteOutbox
from replicator.publisher.delivery import Delivery
from replicator.source.reader import FeedReader
from replicator.store import capture, store, sweep
from replicator.store.capture import Capture
from replicator.store.handover import Handover
from replicator.store.inbox import Inbox, Work
from replicator.store.store import Store
from tests.faults.pipeline.simulated_link import SimulatedLink


class Mutant(NamedTuple):
    """A way to break the product, and what the checker must say."""

    break_it: Callable[[pytest.MonkeyPatch], None]
    says: str
    focus: tuple[str, ...] = ()  # actions that are more frequent, where it takes a coincidence


def hands_over_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    handovers: list[Handover] = []
    connect, append = Handover.connect, SqliteOutbox._append

    def connect_and_remember(self: Handover, sink: Any) -> None:
        handovers[:] = [self]
        connect(self, sink)

    def append_and_offer(self: SqliteOutbox, new: Sequence[Entry]) -> None:
        append(self, new)
        handover = handovers[0]
        new = [entry for entry in new if entry.number > handover._read_up_to]
        handover.committed(new)

    patch.setattr(Handover, "connect", connect_and_remember)
    patch.setattr(SqliteOutbox, "_append", append_and_offer)


def settles_before_the_confirm(patch: pytest.MonkeyPatch) -> None:
    take = Delivery.take

    def take_and_settle(self: Delivery, frames: Any) -> list[bytes]:
        before = set(self.window._in_flight)
        writes = take(self, frames)
        flights = self.window._in_flight
        self._settled += [entry for tag, (entry, _) in flights.items() if tag not in before]
        return writes

    patch.setattr(Delivery, "take", take_and_settle)


def forgets_the_sweep(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sweep, "deletes", lambda *_, **__: [])


def keeps_the_marks_of_a_broken_snapshot(patch: pytest.MonkeyPatch) -> None:
    marks = SeenRows()
    patch.setattr(capture, "SeenRows", lambda: marks)


def takes_new_documents_for_deleted_ones(patch: pytest.MonkeyPatch) -> None:
    reconcile = capture.reconcile

    def forgetful(changes: Any, keys: Any, index: Any, **options: Any) -> Any:
        plan = reconcile(changes, keys, index, **options)
        new = {row.row_id for row in index.change().inserted.values()}
        return plan._replace(seen=[row for row in plan.seen if row not in new])

    patch.setattr(capture, "reconcile", forgetful)


def deletes_before_it_has_counted(patch: pytest.MonkeyPatch) -> None:
    counted = sweep._counted

    def counted_enough(*arguments: Any) -> Any:
        missing = counted(*arguments)
        return replace(missing, next_start=None) if missing.deletes else missing

    patch.setattr(sweep, "_counted", counted_enough)


def decides_on_each_page(patch: pytest.MonkeyPatch) -> None:
    counted = sweep._counted

    def counted_anew(outbox: Any, feed: Any, snapshot: Any) -> Any:
        missing = snapshot.missing
        before = replace(missing, deletes=0, documents=0)
        return counted(outbox, feed, replace(snapshot, missing=before))

    patch.setattr(sweep, "_counted", counted_anew)


def accepts_more_than_was_shown(patch: pytest.MonkeyPatch) -> None:
    held_back = sweep.held_back

    def held_back_until_anything_is_accepted(
        limit: Any, missing: Any, before: Any, **rest: Any
    ) -> Any:
        is_accepted = before is not None and before.accepted is not None
        return None if is_accepted else held_back(limit, missing, before, **rest)

    patch.setattr(sweep, "held_back", held_back_until_anything_is_accepted)


def takes_what_is_guarded_for_compared(patch: pytest.MonkeyPatch) -> None:
    def complete(capture: Capture, feed: Any, snapshot: Any, guard: Any) -> None:
        del snapshot
        capture.complete(feed, guard.at)

    patch.setattr(sweep, "_hold", complete)


def closes_the_gap_of_what_is_guarded(patch: pytest.MonkeyPatch) -> None:
    hold = sweep._hold

    def hold_and_close(capture: Capture, feed: Any, snapshot: Any, guard: Any) -> None:
        gap = feed.open_gap and replace(feed.open_gap, closed_at=guard.at)
        hold(capture, replace(feed, gap=gap), snapshot, guard)

    patch.setattr(sweep, "_hold", hold_and_close)


def takes_what_came_back_for_deleted(patch: pytest.MonkeyPatch) -> None:
    """What is created while a feed is guarded is not marked as seen."""
    reconcile = capture.reconcile

    def forgetful(changes: Any, *arguments: Any, **options: Any) -> Any:
        plan = reconcile(changes, *arguments, **options)
        return plan if plan.compared else plan._replace(seen=())

    patch.setattr(capture, "reconcile", forgetful)


def deaf_to_what_is_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "released", lambda feed, *_: feed)


def changes_the_index_without_entries(patch: pytest.MonkeyPatch) -> None:
    add = Capture.add

    def add_some(self: Capture, feed: Any, drafts: Any, at: int) -> Any:
        return add(self, feed, [d for d in drafts if d.origin is not Origin.RESYNC], at)

    patch.setattr(Capture, "add", add_some)


def appends_entries_without_the_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteOutbox, "_change_index", lambda *_: None)


def forgets_the_highest_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statements, "SAVE_LAST_ENTRY", "UPDATE meta SET last_entry = 0 WHERE ? < 0")


def repeats_the_commit_with_what_follows_it(patch: pytest.MonkeyPatch) -> None:
    def step(self: Store, work: Any, now: int) -> None:
        def both() -> None:
            self.commit(work, now)
            for feed in self._sweeping():
                self._sweep(feed.id, now)
            self.follow_up(is_idle=not work)

        self._retrying(both, now)

    patch.setattr(Store, "step", step)


def keeps_what_it_decided_of_a_failed_commit(patch: pytest.MonkeyPatch) -> None:
    commit = Store._commit

    def commit_or_not(self: Store, decided: Capture, *rest: Any) -> None:
        try:
            commit(self, decided, *rest)
        except OutboxUnavailable:
            self._memory = decided.memory
            raise

    patch.setattr(Store, "_commit", commit_or_not)


def believes_it_has_caught_up(patch: pytest.MonkeyPatch) -> None:
    refill = Handover.refill

    def refill_once(self: Handover) -> None:
        refill(self)
        self.has_caught_up = True

    patch.setattr(Handover, "refill", refill_once)


def goes_on_with_the_last_reading(patch: pytest.MonkeyPatch) -> None:
    begin = Handover.begin

    def begin_where_it_was(self: Handover, reading: int) -> None:
        read_up_to = self._read_up_to
        begin(self, reading)
        self._read_up_to = read_up_to

    patch.setattr(Handover, "begin", begin_where_it_was)


def reads_again_before_it_has_settled(patch: pytest.MonkeyPatch) -> None:
    commit = Store.commit

    def begin_and_commit(self: Store, work: Work, now: int) -> None:
        for outcomes in work.outcomes:
            if outcomes.reading:
                self._handover.begin(outcomes.reading)
                self._handover.refill()
        without = [each._replace(reading=0) for each in work.outcomes]
        commit(self, Work(work.items, without), now)

    patch.setattr(Store, "commit", begin_and_commit)


def deaf_to_operators(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Handover, "ask_again", lambda _self: None)


def never_lets_readers_go_on(patch: pytest.MonkeyPatch) -> None:
    hold = Inbox.hold

    def hold_only(self: Inbox, *, is_held: bool) -> None:
        if is_held:
            hold(self, is_held=True)

    patch.setattr(Inbox, "hold", hold_only)


def takes_offers_of_a_reading_that_is_over(patch: pytest.MonkeyPatch) -> None:
    offer = Window.offer

    def offer_anyway(self: Window, entries: Any, reading: int) -> bool:
        del reading
        return offer(self, entries, self.reading)

    patch.setattr(Window, "offer", offer_anyway)


def keeps_what_waits(patch: pytest.MonkeyPatch) -> None:
    def keep(self: Window) -> None:
        self.reading += 1

    patch.setattr(Window, "forget", keep)


def pipelines_a_document(patch: pytest.MonkeyPatch) -> None:
    offer = Window.offer

    def offer_at_once(self: Window, entries: Any, reading: int) -> bool:
        entries = list(entries)
        is_taken = offer(self, entries, reading)
        if is_taken:
            known = {entry.number for entry in self._ready}
            flights = {entry.number for entry, _ in self._in_flight.values()}
            self._ready.extend(e for e in entries if e.number not in known | flights)
        return is_taken

    def settle(self: Window, entry: Entry) -> None:
        self._count -= 1
        self._bytes -= len(entry.body)
        self._attempts.pop(entry.number, None)
        queue = self._documents.get((entry.feed_id, entry.key), [])
        if entry in queue:
            queue.remove(entry)
        if not queue:
            self._documents.pop((entry.feed_id, entry.key), None)

    patch.setattr(Window, "offer", offer_at_once)
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
        if suspects := self.lost():
            self._parked.append(Failure(suspects[0].number, "too_large", text))
            self.flush()

    patch.setattr(Delivery, "suspect", suspect)


def publishes_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedLink, "is_fenced", False)


def dates_gaps_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FeedReader, "complete_at", property(lambda _self: 0))


MUTANTS = [
    Mutant(
        hands_over_before_the_commit,
        "G1: published before its commit|G2: it does not converge|G3: published after|G5",
    ),
    Mutant(settles_before_the_confirm, "G1: entries were deleted|G5: the totals"),
    Mutant(forgets_the_sweep, "G2"),
    Mutant(keeps_the_marks_of_a_broken_snapshot, "G2"),
    Mutant(takes_new_documents_for_deleted_ones, "G2"),
    Mutant(deletes_before_it_has_counted, "guard: too many"),
    Mutant(decides_on_each_page, "guard: too many"),
    Mutant(accepts_more_than_was_shown, "guard: too many", ("follow", "lose_after_accepting")),
    Mutant(takes_what_is_guarded_for_compared, "G2"),
    Mutant(closes_the_gap_of_what_is_guarded, "guard: the gap is closed"),
    Mutant(takes_what_came_back_for_deleted, "G2|G4"),
    Mutant(deaf_to_what_is_accepted, "G2: it does not converge"),
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
    Mutant(keeps_what_it_decided_of_a_failed_commit, "G1|G2|died of", ("churn", "fail_commits")),
    Mutant(believes_it_has_caught_up, "G2: it does not converge|G3|died of"),
    Mutant(goes_on_with_the_last_reading, "G2: it does not converge"),
    Mutant(
        reads_again_before_it_has_settled,
        "G3|G5: the totals",
        ("churn", "change_their_mind", "interpose", "publish"),
    ),
    Mutant(deaf_to_operators, "G2: it does not converge"),
    Mutant(never_lets_readers_go_on, "G2: it does not converge"),
    Mutant(
        takes_offers_of_a_reading_that_is_over,
        "G2|G3|G5",
        ("churn", "interpose", "lose_link", "publish"),
    ),
    Mutant(keeps_what_waits, "G2|G3|G5|died of", ("churn", "park", "redrive", "publish")),
    Mutant(pipelines_a_document, "G3", ("churn", "refuse", "publish")),
    Mutant(takes_only_one_of_many_confirms, "G1: a confirm was not understood"),
    Mutant(takes_a_nack_for_an_ack, "G1"),
    Mutant(drops_what_no_queue_takes, "G1", ("unbind", "publish")),
    Mutant(parks_the_first_suspect, "G1: parked for nothing"),
    Mutant(publishes_without_a_fence, "G3", ("churn", "lose_link", "publish")),
    Mutant(dates_gaps_too_late, "G4: missed, and in no gap"),
]
