"""The queue between readers, publisher and store."""

import threading
import time

from replicator.domain.feed_element import Change
from replicator.domain.items import FeedBatch, FeedOpened
from replicator.domain.model import Outcomes
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


def test_outcomes_go_with_the_next_step_that_has_items() -> None:
    inbox = Inbox()
    for number in range(3):
        inbox.put(batch(number))
        inbox.report(Outcomes([number]))
        work = inbox.gather(timeout=60)
        assert (len(work.items), work.outcomes) == (1, [Outcomes([number])])


def test_outcomes_come_in_the_order_in_which_they_were_reported_and_once() -> None:
    inbox = Inbox()
    reports = [Outcomes([1]), Outcomes(reading=2), Outcomes([3])]
    for report in reports:
        inbox.report(report)

    assert inbox.take_outcomes() == reports
    assert inbox.take_outcomes() == []
    assert not inbox.gather(timeout=0)


def test_a_publisher_that_asks_for_a_reading_does_not_wait_for_company() -> None:
    inbox = Inbox()
    inbox.report(Outcomes([1]))
    inbox.report(Outcomes(reading=1))

    assert inbox.gather(timeout=60).outcomes == [Outcomes([1]), Outcomes(reading=1)]
    inbox.report(Outcomes([2]))
    assert inbox.gather(timeout=0.01).outcomes == [Outcomes([2])]


def test_outcomes_that_are_given_back_keep_their_place_and_count_again() -> None:
    inbox = Inbox()
    first, second = Outcomes(range(1999)), Outcomes([2000])
    inbox.report(first)
    taken = inbox.take_outcomes()
    inbox.report(second)
    inbox.give_back(taken)

    assert inbox.gather(timeout=60).outcomes == [first, second]
    inbox.give_back([Outcomes(reading=1)])
    assert inbox.gather(timeout=60).outcomes == [Outcomes(reading=1)]


def test_outcomes_that_were_taken_do_not_count_as_many() -> None:
    inbox = Inbox()
    inbox.report(Outcomes(range(1999)))
    inbox.take_outcomes()
    inbox.report(Outcomes([1]))
    started = time.monotonic()
    inbox.gather(timeout=0.02)

    assert time.monotonic() - started >= 0.02


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


def test_many_who_put_at_once_lose_nothing_and_keep_their_order() -> None:
    inbox = Inbox()
    done: list[Work] = []

    def run_store() -> None:
        while not inbox.is_drained:
            done.append(inbox.gather(timeout=0.001))

    def read(feed_id: int) -> None:
        for at in range(400):
            # Large enough that they wait for room again and again.
            inbox.put(FeedBatch(feed_id, [Change(type="add")], MIB // 2, at))

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
