"""The window of unconfirmed messages, case by case."""

from replicator.domain.model import Entry, Op, Origin, Returned
from replicator.domain.window import Window, WindowLimits

NO_ROUTE = Returned(312, "NO_ROUTE")


def entry(number: int, key: str = "", size: int = 1) -> Entry:
    body = b"x" * size
    return Entry(number, 1, key or str(number), Op.UPDATE, Origin.FEED, body, number)


def window(
    *entries: Entry, in_flight: int = 10, in_flight_bytes: int = 1000, buffered: int = 20
) -> Window:
    made = Window(
        WindowLimits(in_flight, in_flight_bytes, buffered, 1000),
        backoff=lambda attempt: attempt * 10.0,
    )
    made.offer(entries, made.reading)
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


def test_a_nacked_entry_is_sent_again_after_its_backoff_and_its_document_waits() -> None:
    found = window(entry(1, "a"), entry(2, "a"), entry(3, "b"))
    found.take(0)
    assert numbers(found.nack(1, multiple=False, now=5)) == [1]

    assert found.refused == 1
    assert numbers(found.take(14.9)) == []
    assert numbers(found.take(15)) == [1]
    found.nack(3, multiple=False, now=15)
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


def test_a_lost_channel_forgets_everything_and_says_what_was_in_flight() -> None:
    found = window(*(entry(number, "ab"[number % 2]) for number in range(1, 7)))
    found.take(0)
    found.nack(2, multiple=False, now=0)
    assert numbers(found.lost()) == [1]

    assert (found.in_flight, found.buffered, found.refused) == (0, 0, 0)
    assert found.is_empty
    assert found.reading == 2


def test_after_a_lost_channel_entries_are_read_again_and_tags_are_counted_from_one() -> None:
    found = window(*(entry(number, "ab"[number % 2]) for number in range(1, 5)))
    found.take(0)
    found.returned(2, NO_ROUTE)
    found.lost()
    found.offer([entry(number, "ab"[number % 2]) for number in range(1, 5)], 2)

    assert numbers(found.take(0)) == [1, 2]
    (confirmed,) = found.confirm(2, multiple=False)
    assert (confirmed.entry.number, confirmed.returned) == (2, None)
    assert numbers(found.take(0)) == [4]


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

    assert numbers(found.take(10)) == []
    found.offer([entry(4)], 1)
    assert numbers(found.take(10)) == []
    found.confirm(2, multiple=False)
    assert numbers(found.take(10)) == [1, 4]


def test_what_becomes_ready_goes_after_what_was_ready_before() -> None:
    """So a poison entry is alone in flight before anything newer was confirmed."""
    found = window(entry(1, "a"), entry(2), entry(3), entry(4, "a"))
    found.cap = 1
    sent = []
    for tag in range(1, 5):
        sent += numbers(found.take(0))
        found.confirm(tag, multiple=False)

    assert sent == [1, 2, 3, 4]


def test_a_cap_is_a_smaller_limit() -> None:
    found = window(*(entry(number) for number in range(1, 9)))
    found.cap = 2

    assert numbers(found.take(0)) == [1, 2]


def test_room_is_what_may_still_be_buffered() -> None:
    found = window(entry(1), entry(2), in_flight=1, buffered=5)
    assert found.room_beside(0, 0) == 3

    found.take(0)
    assert found.room_beside(0, 0) == 4
    assert found.room_beside(3, 0) == 1
    found.offer([entry(number) for number in range(3, 20)], 1)
    assert found.room_beside(0, 0) == 0


def test_there_is_no_room_when_the_buffered_bytes_are_used_up() -> None:
    found = window(entry(1, size=999))
    assert found.room_beside(0, 0) == 19
    assert found.room_beside(0, 1) == 0
    found.offer([entry(2, size=1)], 1)
    assert found.room_beside(0, 0) == 0

    found.take(0)
    assert found.room_beside(0, 0) == 20


def test_entries_of_another_reading_are_dropped() -> None:
    found = window(entry(2, "a"))

    assert not found.offer([entry(3)], 2)
    found.forget()
    assert not found.offer([entry(3)], 1)
    assert found.is_empty
    assert found.offer([entry(1, "a"), entry(2, "a")], found.reading)
    assert numbers(found.take(0)) == [1]


def test_what_is_forgotten_is_not_sent_and_what_is_in_flight_stays() -> None:
    found = window(*(entry(n, "a") for n in (1, 2, 5)), entry(3), entry(4), in_flight=2)
    found.take(0)
    found.nack(2, multiple=False, now=0)  # 3 waits for its backoff, 4 is ready, 2 and 5 wait
    found.forget()

    assert (found.in_flight, found.buffered, found.refused) == (1, 0, 0)
    assert found.take(100) == []
    assert [each.entry.number for each in found.confirm(1, multiple=False)] == [1]
    assert found.is_empty


def test_what_is_in_flight_and_read_again_is_not_sent_twice() -> None:
    found = window(entry(1, "a"), entry(2, "a"), entry(3))
    found.take(0)
    found.forget()
    found.offer([entry(1, "a"), entry(2, "a"), entry(3)], 2)

    assert (found.in_flight, found.buffered) == (2, 1)
    assert found.take(0) == []
    found.confirm(2, multiple=True)
    assert numbers(found.take(0)) == [2]


def test_what_is_confirmed_before_it_is_offered_again_is_not_sent_twice() -> None:
    """The outbox was read before the confirm was committed."""
    found = window(entry(1, "a"), entry(2, "a"))
    found.take(0)
    found.forget()
    found.confirm(1, multiple=False)
    found.offer([entry(1, "a"), entry(2, "a")], 2)

    assert numbers(found.take(0)) == [2]


def test_what_was_in_flight_is_sent_again_by_a_reading_after_the_next() -> None:
    """It was parked and redriven: what was once adopted is an entry like any other."""
    found = window(entry(1))
    found.take(0)
    found.forget()
    found.confirm(1, multiple=False)
    found.forget()
    found.offer([entry(1)], 3)

    assert numbers(found.take(0)) == [1]


def test_an_orphan_that_is_refused_is_forgotten_and_frees_its_document() -> None:
    found = window(entry(2, "a"), entry(4))
    found.take(0)
    found.forget()
    found.offer([entry(1, "a")], 2)  # redriven
    assert numbers(found.nack(2, multiple=True, now=0)) == [2, 4]

    assert (found.refused, found.attempts(2)) == (0, 0)
    assert numbers(found.take(0)) == [1]
    found.offer([entry(2, "a"), entry(3)], 2)  # 4 was parked
    assert numbers(found.take(100)) == [3]
    found.confirm(4, multiple=True)
    assert numbers(found.take(100)) == [2]


def test_an_orphan_that_is_returned_and_held_is_forgotten() -> None:
    found = window(entry(1, "a"), entry(2, "a"))
    found.take(0)
    found.returned(1, NO_ROUTE)
    found.forget()
    (confirmed,) = found.confirm(1, multiple=False)
    found.retry(confirmed.entry, 0)

    assert found.is_empty
    found.offer([entry(1, "a"), entry(2, "a")], 2)
    assert numbers(found.take(0)) == [1]


def test_an_orphan_that_was_offered_again_is_retried_like_any_other() -> None:
    found = window(entry(1), entry(2))
    found.take(0)
    found.nack(1, multiple=False, now=0)
    assert numbers(found.take(10)) == [1]
    found.forget()
    found.offer([entry(1), entry(2)], 2)
    found.nack(3, multiple=False, now=10)

    assert found.attempts(1) == 2
    assert numbers(found.take(29)) == []
    assert numbers(found.take(30)) == [1]


def test_a_redriven_entry_waits_for_what_is_in_flight_of_its_document() -> None:
    found = window(entry(2, "a"), entry(3, "a"))
    found.take(0)
    found.forget()
    found.offer([entry(1, "a"), entry(2, "a"), entry(3, "a")], 2)

    assert found.take(0) == []
    found.confirm(1, multiple=False)
    assert numbers(found.take(0)) == [1]
    found.confirm(2, multiple=False)
    assert numbers(found.take(0)) == [3]


def test_a_redriven_entry_goes_before_a_newer_one_that_is_refused() -> None:
    found = window(entry(2, "a"), entry(3, "a"))
    found.take(0)
    found.forget()
    found.offer([entry(1, "a"), entry(2, "a"), entry(3, "a")], 2)
    found.nack(1, multiple=False, now=0)

    assert found.refused == 1
    assert numbers(found.take(0)) == [1]
    found.confirm(2, multiple=False)
    assert numbers(found.take(0)) == [2]
    found.confirm(3, multiple=False)
    assert found.refused == 0
    assert numbers(found.take(0)) == [3]
