"""The queue between readers, publisher and store."""

import threading
import time

import pytest

from replicator.domain.feed_element import Change
from replicator.domain.items import FeedBatch, FeedOpened
from replicator.domain.model import Outcomes
from replicator.store import inbox as inbox_module
from replicator.store.inbox import Inbox, Work
from tests.support.wait import wait_until

MIB = 1024 * 1024


def batch(number: int = 1, size: int = 10) -> FeedBatch:
    return FeedBatch(number, [Change(type="add")], size, 0)


def test_items_come_out_in_the_order_they_were_put_in() -> None:
    inbox = Inbox()
    items = [FeedOpened(1, "T", "id", 0), batch(1), batch(2)]

    assert all(inbox.put(item) for item in items)
    assert inbox.gather(timeout=0).items == items
    assert not inbox.gather(timeout=0)


def test_a_step_takes_its_share_and_leaves_the_rest() -> None:
    inbox = Inbox()
    for number in range(1, 6):
        inbox.put(batch(number, MIB if number < 3 else MIB // 2))

    assert [item.feed_id for item in inbox.gather(timeout=0).items] == [1, 2]
    assert [item.feed_id for item in inbox.gather(timeout=0).items] == [3, 4, 5]


def test_a_batch_larger_than_every_limit_still_goes() -> None:
    inbox = Inbox()
    inbox.put(batch(1, 100 * MIB))

    assert len(inbox.gather(timeout=0).items) == 1


def test_a_reader_waits_while_the_queue_is_full() -> None:
    inbox = Inbox()
    inbox.put(batch(1, 7 * MIB))
    results: list[bool] = []
    reader = threading.Thread(target=lambda: results.append(inbox.put(batch(2))), daemon=True)
    reader.start()
    assert inbox.gather(timeout=0).items[0].feed_id == 1
    reader.join(10)

    assert results == [True]
    assert inbox.gather(timeout=0).items[0].feed_id == 2


def test_a_waiting_reader_is_let_go_when_the_queue_is_closed() -> None:
    inbox = Inbox()
    inbox.put(batch(1, 7 * MIB))
    results: list[bool] = []
    reader = threading.Thread(target=lambda: results.append(inbox.put(batch(2))), daemon=True)
    reader.start()
    inbox.close()
    reader.join(10)

    assert results == [False]
    assert not inbox.put(batch(3))
    assert [item.feed_id for item in inbox.gather(timeout=0).items] == [1]


def test_items_are_held_back_while_the_outbox_is_full_and_outcomes_are_not() -> None:
    inbox = Inbox()
    inbox.put(batch())
    inbox.hold(is_held=True)
    inbox.report(Outcomes([1]))

    work = inbox.gather(timeout=0)
    assert (work.items, len(work.outcomes)) == ([], 1)
    inbox.hold(is_held=False)
    assert len(inbox.gather(timeout=0).items) == 1


def test_held_items_are_let_through_at_the_end() -> None:
    inbox = Inbox()
    inbox.put(batch())
    inbox.hold(is_held=True)
    inbox.close()

    assert not inbox.is_drained
    assert len(inbox.gather(timeout=0).items) == 1
    assert inbox.is_drained


def test_outcomes_alone_wait_a_moment_for_company() -> None:
    inbox = Inbox()
    inbox.report(Outcomes([1]))
    started = time.monotonic()
    work = inbox.gather(timeout=0.02)

    assert len(work.outcomes) == 1
    assert 0.02 <= time.monotonic() - started < 20


def test_many_outcomes_do_not_wait() -> None:
    inbox = Inbox()
    inbox.report(Outcomes(range(2000)))

    assert len(inbox.gather(timeout=30).outcomes) == 1


def test_outcomes_go_with_every_eighth_step_that_has_items() -> None:
    inbox = Inbox()
    settled = []
    for number in range(16):
        inbox.put(batch(number))
        inbox.report(Outcomes([number]))
        settled.append(len(inbox.gather(timeout=0).outcomes))

    assert settled == [0, 0, 0, 0, 0, 0, 0, 8] * 2


def test_many_outcomes_go_with_the_next_step_and_so_do_the_last() -> None:
    inbox = Inbox()
    inbox.put(batch())
    inbox.report(Outcomes(range(2000)))
    assert len(inbox.gather(timeout=0).outcomes) == 1
    inbox.put(batch())
    inbox.report(Outcomes([2000]))
    inbox.close()
    assert len(inbox.gather(timeout=0).outcomes) == 1


def test_items_wait_for_company_where_there_is_no_hurry() -> None:
    inbox = Inbox()
    inbox.put(batch())
    started = time.monotonic()
    assert len(inbox.gather(timeout=0.02, is_hurried=False).items) == 1
    assert time.monotonic() - started >= 0.02
    inbox.put(batch(1, 2 * MIB))
    assert len(inbox.gather(timeout=60, is_hurried=False).items) == 1
    inbox.put(batch())
    inbox.close()
    assert len(inbox.gather(timeout=60, is_hurried=False).items) == 1


def test_behind_a_backlog_a_reader_comes_back_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its server is asked less often then, and makes one answer of what comes meanwhile."""
    monkeypatch.setattr(inbox_module, "_BEHIND_SECONDS", 60.0)
    inbox = Inbox()
    inbox.gather(timeout=0, is_hurried=False)
    inbox.put(FeedOpened(1, "T", "id", 0))
    inbox.put(batch(1, MIB))
    behind: list[bool] = []
    reader = threading.Thread(target=lambda: behind.append(inbox.put(batch(2))), daemon=True)
    reader.start()
    wait_until(lambda: len(inbox._items) == 3)
    time.sleep(0.05)
    assert behind == [], "a small batch waits, and nothing else"
    assert len(inbox.gather(timeout=0, is_hurried=True).items) == 3
    reader.join(10)
    assert behind == [True]

    inbox.gather(timeout=0, is_hurried=False)
    reader = threading.Thread(target=lambda: behind.append(inbox.put(batch(3))), daemon=True)
    reader.start()
    wait_until(lambda: len(inbox._items) == 1)
    inbox.close()
    reader.join(10)
    assert behind == [True, True]


def test_a_share_that_comes_ends_the_waiting() -> None:
    inbox = Inbox()
    works: list[Work] = []
    store = threading.Thread(
        target=lambda: works.append(inbox.gather(timeout=60, is_hurried=False)), daemon=True
    )
    store.start()
    inbox.put(batch())
    inbox.put(batch(2, 2 * MIB))
    store.join(10)

    assert [len(work.items) for work in works] == [2]


def test_a_poke_ends_the_waiting_once() -> None:
    inbox = Inbox()
    inbox.poke()

    assert not inbox.gather(timeout=60)
    assert not inbox.gather(timeout=0)


def test_drained_means_that_the_last_step_is_done() -> None:
    inbox = Inbox()
    inbox.put(batch())
    inbox.close()
    assert not inbox.wait_until_drained(0)
    assert inbox.gather(timeout=0)
    assert not inbox.wait_until_drained(0), "gathered, but not committed yet"
    inbox.gather(timeout=0)

    assert inbox.wait_until_drained(0)


def test_waiting_for_the_drain_ends_as_soon_as_it_is_done() -> None:
    inbox = Inbox()
    inbox.put(batch())
    inbox.close()
    results: list[bool] = []
    waiter = threading.Thread(
        target=lambda: results.append(inbox.wait_until_drained(60)), daemon=True
    )
    waiter.start()
    while inbox.gather(timeout=0):
        pass
    wait_until(lambda: bool(results))

    assert results == [True]


class Waiting:
    """A store's thread that waits for work, and keeps what it gathers."""

    def __init__(self, inbox: Inbox, *, timeout: float = 20, is_hurried: bool = True) -> None:
        self.gathered: list[Work] = []
        self._inbox = inbox
        self.thread = threading.Thread(
            target=lambda: self.gathered.append(
                inbox.gather(timeout=timeout, is_hurried=is_hurried)
            ),
            daemon=True,
        )
        self.thread.start()
        wait_until(lambda: inbox._is_waiting)

    def stop(self) -> list[int]:
        """Let it gather what there is; returns the feeds of the items."""
        self._inbox.poke()
        self.thread.join(20)
        (work,) = self.gathered
        return [item.feed_id for item in work.items if isinstance(item, FeedBatch)]


def stepping(inbox: Inbox, *, is_done: bool = True) -> list[Work]:
    """Let an inbox lend turns; returns what is done with them."""
    steps: list[Work] = []

    def step(work: Work) -> bool:
        steps.append(work)
        return is_done

    inbox.lend_turns(step)
    return steps


def test_who_puts_a_batch_does_its_step_while_the_store_waits() -> None:
    inbox = Inbox()
    steps = stepping(inbox)
    store = Waiting(inbox)
    assert inbox.put(batch(1))
    assert [work.items for work in steps] == [[batch(1)]]
    assert inbox.put(batch(2))

    assert len(steps) == 2
    assert store.stop() == []


def test_no_turn_is_lent_for_what_is_large_or_no_batch_nor_past_what_waits() -> None:
    inbox = Inbox()
    steps = stepping(inbox)
    inbox.put(batch(1))
    inbox.hold(is_held=True)
    store = Waiting(inbox)
    inbox.put(batch(2))
    assert steps == []
    inbox.hold(is_held=False)
    store.thread.join(20)
    store = Waiting(inbox)
    inbox.put(batch(3, MIB))
    assert store.stop() == [3]
    store = Waiting(inbox)
    inbox.put(FeedOpened(1, "T", "id", 0))
    store.thread.join(20)
    store = Waiting(inbox, is_hurried=False)
    inbox.put(batch(4))

    assert store.stop() == [4]
    assert steps == []


def test_no_turn_is_lent_to_two_at_once_and_the_store_waits_for_it() -> None:
    inbox = Inbox()
    is_in_step, may_end = threading.Event(), threading.Event()

    def step(_work: Work) -> bool:
        is_in_step.set()
        return may_end.wait(20)

    inbox.lend_turns(step)
    store = Waiting(inbox, timeout=1)
    reader = threading.Thread(target=lambda: inbox.put(batch(1)), daemon=True)
    reader.start()
    assert is_in_step.wait(20)
    assert inbox.put(batch(2))
    time.sleep(1.2)  # longer than the store wanted to wait
    assert store.gathered == []
    assert not inbox.wait_until_drained(0)
    may_end.set()
    reader.join(20)
    store.thread.join(20)

    assert [work.items for work in store.gathered] == [[batch(2)]]


def test_what_could_not_be_done_goes_to_the_store_in_its_old_place() -> None:
    inbox = Inbox()
    inbox.lend_turns(lambda _work: inbox.put(batch(2)) is None)
    store = Waiting(inbox)
    reports = [Outcomes([number]) for number in range(9)]
    for report in reports[:8]:
        inbox.report(report)
    inbox._steps_without_settling = 7
    inbox.put(batch(1))
    store.thread.join(20)
    (work,) = store.gathered

    assert [item.feed_id for item in work.items if isinstance(item, FeedBatch)] == [1, 2]
    inbox.report(reports[8])
    assert [*work.outcomes, *inbox.take_outcomes()] == reports
    assert inbox._settled == 0


def test_what_failed_by_a_defect_is_not_done_again() -> None:
    inbox = Inbox()

    def step(_work: Work) -> bool:
        raise ZeroDivisionError

    inbox.lend_turns(step)
    store = Waiting(inbox)
    with pytest.raises(ZeroDivisionError):
        inbox.put(batch(1))

    assert store.stop() == []


def test_the_store_looks_again_as_soon_as_who_has_its_turn_expects_it_to() -> None:
    inbox = Inbox()

    def step(_work: Work) -> bool:
        inbox.expect(within=0.01, is_hurried=True)
        return True

    inbox.lend_turns(step)
    store = Waiting(inbox, timeout=20)
    began = time.monotonic()
    inbox.put(batch(1))
    store.thread.join(20)

    assert store.gathered == [Work([], [])]
    assert time.monotonic() - began < 10


def test_the_store_is_left_alone_while_steps_are_done_for_it_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "_MOST_SECONDS_LENT", 3.0)
    inbox = Inbox()

    def step(_work: Work) -> bool:
        inbox.expect(within=1, is_hurried=True)
        return True

    inbox.lend_turns(step)
    began = time.monotonic()
    store = Waiting(inbox, timeout=1)
    while store.gathered == [] and time.monotonic() - began < 20:
        inbox.put(batch())
        time.sleep(0.01)
    took = time.monotonic() - began
    store.stop()

    assert 2 < took < 15


def test_a_step_that_takes_longer_than_the_store_wanted_to_wait_does_not_put_it_off() -> None:
    inbox = Inbox()

    def step(_work: Work) -> bool:
        time.sleep(1.2)
        inbox.expect(within=20, is_hurried=True)
        return True

    inbox.lend_turns(step)
    store = Waiting(inbox, timeout=1)
    inbox.put(batch())
    store.thread.join(10)

    assert store.gathered == [Work([], [])]


def test_many_who_put_at_once_lose_nothing_and_keep_their_order() -> None:
    inbox = Inbox()
    done: list[Work] = []
    at_work: list[int] = []

    def step(work: Work) -> bool:
        at_work.append(1)
        done.append(work)
        time.sleep(0)
        assert len(at_work) == 1, "two at once"
        at_work.pop()
        return True

    inbox.lend_turns(step)

    def run_store() -> None:
        while not inbox.is_drained:
            step(inbox.gather(timeout=0.001))

    def read(feed_id: int) -> None:
        for at in range(400):
            inbox.put(FeedBatch(feed_id, [Change(type="add")], 10, at))

    readers = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(3)]
    store = threading.Thread(target=run_store, daemon=True)
    for thread in (store, *readers):
        thread.start()
    for reader in readers:
        reader.join(60)
    inbox.close()
    store.join(60)
    items = [item for work in done for item in work.items if isinstance(item, FeedBatch)]

    for feed_id in range(3):
        assert [item.at for item in items if item.feed_id == feed_id] == list(range(400))
    assert at_work == []
