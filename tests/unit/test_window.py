"""The window of unconfirmed messages, case by case."""

import sys

from replicator.domain.model import Entry, Op, Origin, Returned
from replicator.domain.window import Limits, Window

NO_ROUTE = Returned(312, "NO_ROUTE")


def entry(number: int, key: str = "", size: int = 1) -> Entry:
    body = b"x" * size
    return Entry(number, 1, key or str(number), Op.UPDATE, Origin.FEED, body, number)


def window(
    *entries: Entry, in_flight: int = 10, in_flight_bytes: int = 1000, buffered: int = 20
) -> Window:
    made = Window(
        Limits(in_flight, in_flight_bytes, buffered, 1000), backoff=lambda attempt: attempt * 10.0
    )
    made.offer(entries)
    return made


def numbers(entries: list[Entry]) -> list[int]:
    return [each.number for each in entries]


def test_entries_of_different_documents_are_published_together() -> None:
    found = window(entry(1), entry(2), entry(3))

    assert numbers(found.take(0)) == [1, 2, 3]
    assert found.in_flight == 3
    assert found.buffered == 0


def test_the_next_entry_of_a_document_waits_for_the_confirm_of_the_one_before() -> None:
    found = window(entry(1, "a"), entry(2, "a"), entry(3, "a"), entry(4, "b"))

    assert numbers(found.take(0)) == [1, 4]
    assert found.buffered == 2
    assert numbers(found.take(0)) == []
    found.confirm(1, multiple=False)
    assert numbers(found.take(0)) == [2]
    found.confirm(3, multiple=True)
    assert numbers(found.take(0)) == [3]
    found.confirm(4, multiple=False)
    assert found.is_empty


def test_two_tables_may_have_documents_with_the_same_key() -> None:
    other = Entry(2, 2, "a", Op.UPDATE, Origin.FEED, b"", 0)

    assert numbers(window(entry(1, "a"), other).take(0)) == [1, 2]


def test_a_confirm_of_many_settles_those_up_to_its_tag() -> None:
    found = window(*(entry(number) for number in range(1, 6)))
    found.take(0)
    found.confirm(2, multiple=False)

    assert [each.entry.number for each in found.confirm(4, multiple=True)] == [1, 3, 4]
    assert found.in_flight == 1


def test_a_confirm_of_an_unknown_tag_changes_nothing() -> None:
    found = window(entry(1))
    found.take(0)

    assert found.confirm(9, multiple=False) == []
    assert found.in_flight == 1


def test_a_nacked_entry_is_sent_again_after_its_backoff_before_later_ones() -> None:
    found = window(entry(1, "a"), entry(2, "a"), entry(3, "b"))
    found.take(0)
    assert numbers(found.nack(1, multiple=False, now=5)) == [1]

    assert found.next_retry_at == 15
    assert found.refused == 1
    assert numbers(found.take(14.9)) == []
    assert numbers(found.take(15)) == [1]
    found.nack(3, multiple=False, now=15)
    assert found.next_retry_at == 35
    assert found.attempts(1) == 2
    found.take(35)
    found.confirm(4, multiple=False)
    assert found.attempts(1) == 0
    assert numbers(found.take(35)) == [2]


def test_a_nack_of_many_retries_all_of_them() -> None:
    found = window(entry(1), entry(2), entry(3))
    found.take(0)

    assert numbers(found.nack(2, multiple=True, now=0)) == [1, 2]
    assert numbers(found.take(10)) == [1, 2]


def test_a_returned_entry_is_for_the_caller_to_decide() -> None:
    found = window(entry(1, "a"), entry(2, "a"))
    found.take(0)
    found.returned(1, NO_ROUTE)

    (confirmed,) = found.confirm(1, multiple=False)

    assert confirmed.returned == NO_ROUTE
    assert numbers(found.take(0)) == []
    found.settle(confirmed.entry)
    assert numbers(found.take(0)) == [2]


def test_a_return_before_a_nack_is_forgotten() -> None:
    found = window(entry(1))
    found.take(0)
    found.returned(1, NO_ROUTE)
    found.nack(1, multiple=False, now=0)
    found.take(10)

    (confirmed,) = found.confirm(2, multiple=False)

    assert confirmed.returned is None


def test_a_lost_channel_puts_everything_back_in_order() -> None:
    found = window(*(entry(number, "ab"[number % 2]) for number in range(1, 7)))
    found.take(0)
    found.nack(2, multiple=False, now=0)
    found.confirm(1, multiple=False)

    assert numbers(found.lost()) == []
    assert found.buffered == 5
    assert numbers(found.take(0)) == [2, 3]
    found.confirm(1, multiple=False)  # tags are counted from 1 again
    assert numbers(found.take(0)) == [4]


def test_a_lost_channel_says_what_was_in_flight() -> None:
    found = window(entry(1), entry(2), in_flight=1)
    found.take(0)

    assert numbers(found.lost()) == [1]


def test_no_more_is_in_flight_than_the_limit() -> None:
    found = window(*(entry(number) for number in range(1, 9)), in_flight=3)

    assert numbers(found.take(0)) == [1, 2, 3]
    found.confirm(2, multiple=True)
    assert numbers(found.take(0)) == [4, 5]


def test_one_entry_larger_than_the_limit_goes_alone() -> None:
    found = window(entry(1, size=2000), entry(2), in_flight_bytes=100)

    assert numbers(found.take(0)) == [1]
    assert numbers(found.take(0)) == []
    found.confirm(1, multiple=False)
    assert numbers(found.take(0)) == [2]


def test_a_large_entry_does_not_starve_behind_small_ones() -> None:
    found = window(entry(1, size=60), entry(2, size=60), entry(3), in_flight_bytes=100)

    assert numbers(found.take(0)) == [1]
    found.confirm(1, multiple=False)
    assert numbers(found.take(0)) == [2, 3]


def test_an_entry_that_is_due_without_place_holds_newer_ones_back() -> None:
    found = window(entry(1, size=60), entry(2, size=50), entry(3), in_flight_bytes=100)
    found.take(0)
    found.nack(1, multiple=False, now=0)
    assert numbers(found.take(0)) == [2, 3]
    found.offer([entry(4)])

    assert numbers(found.take(10)) == []
    found.confirm(2, multiple=False)
    assert numbers(found.take(10)) == [1, 4]


def test_a_cap_is_a_smaller_limit() -> None:
    found = window(*(entry(number) for number in range(1, 9)))
    found.cap = 2

    assert numbers(found.take(0)) == [1, 2]


def test_room_is_what_may_still_be_buffered() -> None:
    found = window(entry(1), entry(2), in_flight=1, buffered=5)
    assert found.room == 3

    found.take(0)
    assert found.room == 4
    found.offer(entry(number) for number in range(3, 20))
    assert found.room == 0


def test_there_is_no_room_when_the_buffered_bytes_are_used_up() -> None:
    found = window(entry(1, size=999))
    assert found.room == 19
    found.offer([entry(2, size=1)])
    assert found.room == 0

    found.take(0)
    assert found.room == 20


def test_an_entry_is_removed_after_the_channel_was_lost() -> None:
    found = window(entry(1, "a", size=5), entry(2, "a"), entry(3, "b"))
    found.take(0)
    found.lost()

    assert numbers(found.remove([1])) == [1]
    assert numbers(found.take(0)) == [2, 3]
    assert found.remove([99]) == []


def test_the_lowest_number_is_looked_for_everywhere() -> None:
    found = window(entry(1), entry(2), entry(3), entry(4, "3"), in_flight=3)
    assert found.lowest == 1
    found.take(0)
    found.nack(1, multiple=False, now=0)
    assert found.lowest == 2, "a nacked entry was answered"
    found.take(10)
    found.confirm(4, multiple=True)
    assert found.lowest == 4
    found.take(10)
    found.confirm(9, multiple=True)
    assert found.lowest == sys.maxsize


def test_a_redriven_entry_goes_before_newer_ones_that_are_not_published() -> None:
    found = window(entry(3, "a"), entry(4, "a"), entry(5, "b"))
    found.readmit([entry(1, "a"), entry(2, "b")])

    assert found.buffered == 5
    assert numbers(found.take(0)) == [1, 2]
    found.confirm(2, multiple=True)
    assert numbers(found.take(0)) == [3, 5]


def test_a_redriven_entry_waits_for_what_is_in_flight_of_its_document() -> None:
    found = window(entry(2, "a"), entry(3, "a"))
    found.take(0)
    found.readmit([entry(1, "a")])

    assert found.take(0) == []
    found.confirm(1, multiple=False)
    assert numbers(found.take(0)) == [1]
    found.confirm(2, multiple=False)
    assert numbers(found.take(0)) == [3]


def test_a_redriven_entry_goes_before_a_newer_one_that_was_refused() -> None:
    found = window(entry(2, "a"), entry(3, "a"), entry(4, "b"))
    found.take(0)
    found.nack(1, multiple=False, now=0)  # 2 waits for its backoff, 3 for 2
    found.readmit([entry(1, "a")])

    assert found.buffered == 3
    assert numbers(found.take(0)) == [1]
    found.confirm(3, multiple=True)
    assert numbers(found.take(0)) == [2]
    found.confirm(4, multiple=False)
    assert numbers(found.take(0)) == [3]


def test_a_redriven_entry_goes_before_a_newer_one_that_is_due() -> None:
    found = window(entry(2, "a"), entry(3, "a"), entry(4, "b"))
    found.take(0)
    found.confirm(1, multiple=False)  # 3 is due
    found.readmit([entry(1, "a")])

    assert numbers(found.take(0)) == [1]
    found.confirm(3, multiple=False)
    assert numbers(found.take(0)) == [3]


def test_an_entry_that_is_here_is_not_admitted_twice() -> None:
    found = window(*(entry(n, "a") for n in (1, 2)), entry(3), entry(4), in_flight=2)
    found.take(0)  # 1 and 3 are in flight, 2 waits, 4 is ready
    found.readmit([entry(n) for n in (1, 2, 3, 4)])
    assert (found.in_flight, found.buffered) == (2, 2)

    found.nack(2, multiple=False, now=0)
    found.readmit([entry(3)])
    assert (found.in_flight, found.buffered, found.refused) == (1, 3, 1)
    found.confirm(1, multiple=False)
    found.readmit([entry(2, "a")])
    assert found.buffered == 3


def test_what_is_not_in_flight_is_withdrawn_from_everywhere() -> None:
    found = window(*(entry(n, "a") for n in (1, 2, 5)), entry(3), entry(4), in_flight=2)
    found.take(0)
    found.nack(2, multiple=False, now=0)  # 3 waits for its backoff
    found.withdraw([2, 3, 4, 99])

    assert (found.in_flight, found.buffered, found.refused) == (1, 1, 0)
    found.confirm(1, multiple=False)
    assert numbers(found.take(100)) == [5]
    found.confirm(3, multiple=False)
    assert found.is_empty


def test_an_entry_that_is_due_is_withdrawn_and_the_next_of_its_document_goes() -> None:
    found = window(entry(1, "a"), entry(2, "a"), entry(3, "a"))
    found.take(0)
    found.confirm(1, multiple=False)
    found.withdraw([2])

    assert numbers(found.take(0)) == [3]


def test_what_is_in_flight_and_withdrawn_is_not_sent_again() -> None:
    found = window(entry(1), entry(2), entry(3), entry(4))
    found.take(0)
    found.withdraw([1, 2, 3])
    assert found.is_withdrawn(1)

    assert numbers(found.nack(1, multiple=False, now=0)) == [1]
    assert not found.is_withdrawn(1)
    (confirmed,) = found.confirm(2, multiple=False)
    assert confirmed.entry.number == 2
    assert numbers(found.lost()) == [4]
    assert numbers(found.take(100)) == [4]
    found.confirm(1, multiple=False)
    assert found.is_empty
    assert found.refused == 0


def test_what_was_withdrawn_in_flight_and_redriven_is_sent_again_when_it_must_be() -> None:
    found = window(entry(1), entry(2))
    found.take(0)
    found.withdraw([1])
    found.readmit([entry(1)])

    assert not found.is_withdrawn(1)
    assert numbers(found.lost()) == [1, 2]
    assert numbers(found.take(0)) == [1, 2]


def test_a_lost_channel_puts_redriven_entries_in_order_too() -> None:
    found = window(entry(2, "a"), entry(3, "b"))
    found.take(0)
    found.readmit([entry(1, "a")])
    found.lost()

    assert numbers(found.take(0)) == [1, 3]
    found.confirm(1, multiple=False)
    assert numbers(found.take(0)) == [2]
