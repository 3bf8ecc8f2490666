"""Entries that are read back, counted, and changed by others."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from replicator.domain.model import Entry, Failure
from replicator.errors import OutboxUnusable
from replicator.outbox.port import Outbox, Totals
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import append, appended, entry, parked, report


def numbers(
    outbox: Outbox, after: int, max_entries: int = 100, max_bytes: int = 10**6
) -> list[int]:
    page = outbox.page(after, max_entries=max_entries, max_bytes=max_bytes)
    return [each.number for each in page.entries]


def all_pages(outbox: Outbox, max_entries: int, max_bytes: int = 10**6) -> list[list[Entry]]:
    """Read page after page until one says that it is the last."""
    pages, after = [], 0
    while True:
        page = outbox.page(after, max_entries=max_entries, max_bytes=max_bytes)
        pages.append(page.entries)
        if page.is_last:
            return pages
        after = page.entries[-1].number


def test_entries_are_read_back_as_they_were_written(outbox: Outbox) -> None:
    written = [entry(1, b"\x00\xff"), entry(2, b""), entry(3)]
    outbox.commit(appended(*written))

    assert outbox.page(0, max_entries=10, max_bytes=100).entries == written
    assert outbox.page(1, max_entries=10, max_bytes=100).entries == written[1:]
    assert outbox.page(3, max_entries=10, max_bytes=100) == ([], True)


@pytest.mark.parametrize("many", [0, 1, 4, 5, 6, 10, 11])
def test_pages_have_every_entry_once_and_in_the_order_of_the_numbers(
    outbox: Outbox, many: int
) -> None:
    if many:
        append(outbox, *range(1, many + 1))
    pages = all_pages(outbox, 5)

    assert [each.number for page in pages for each in page] == list(range(1, many + 1))
    assert all(len(page) <= 5 for page in pages)
    assert len(pages) <= many // 5 + 1


def test_a_page_that_is_not_full_is_the_last(outbox: Outbox) -> None:
    append(outbox, 1, 2, 3)

    assert outbox.page(0, max_entries=4, max_bytes=100).is_last
    assert not outbox.page(0, max_entries=2, max_bytes=100).is_last


def test_a_page_ends_after_the_entry_that_exceeds_its_bytes(outbox: Outbox) -> None:
    outbox.commit(appended(entry(1, b"x" * 50), entry(2, b"x" * 60), entry(3)))

    page = outbox.page(0, max_entries=10, max_bytes=100)
    assert [each.number for each in page.entries] == [1, 2]
    assert not page.is_last
    assert numbers(outbox, 0, max_bytes=1) == [1], "one always comes"
    assert [len(page) for page in all_pages(outbox, 10, max_bytes=1)] == [1, 1, 1, 0]


def test_parked_entries_are_not_read_back_until_they_are_redriven(
    database: Database, outbox: Outbox
) -> None:
    append(outbox, 1, 2, 3, 4)
    outbox.commit(parked(1))
    database.park(3)
    assert numbers(outbox, 0) == [2, 4]
    assert numbers(outbox, 0, max_entries=2) == [2, 4], "they take no room in a page"

    database.redrive(1, 3)
    assert numbers(outbox, 0) == [1, 2, 3, 4]
    assert numbers(outbox, 1) == [2, 3, 4]


def test_what_others_discard_is_not_read_back(database: Database, outbox: Outbox) -> None:
    append(outbox, 1, 2, 3)
    database.discard(2)

    assert numbers(outbox, 0) == [1, 3]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE entries SET op = 'upsert' WHERE id = 2", "entries, row 2"),
        ("UPDATE entries SET origin = 'rumour' WHERE id = 2", "entries, row 2"),
        ("UPDATE entries SET captured_at = -1 WHERE id = 2", "entries, row 2"),
        ("UPDATE entries SET key = 'not JSON' WHERE id = 2", "a key is not JSON: 'not JSON'"),
    ],
)
def test_a_row_that_no_outbox_writes_is_not_published(
    database: Database, outbox: Outbox, statement: str, complaint: str
) -> None:
    append(outbox, 1, 2, 3)
    database.damage(statement)

    with pytest.raises(OutboxUnusable, match=complaint):
        outbox.page(0, max_entries=10, max_bytes=100)


def test_totals_count_entries_of_each_state_and_the_bytes_of_all(outbox: Outbox) -> None:
    assert outbox.totals() == Totals(0, 0, 0, None)
    outbox.commit(appended(entry(1), entry(2, b"xyz"), entry(3)))
    outbox.commit(parked(1))
    outbox.commit(report(failed=[Failure(2, "nacked", "no")]))

    assert outbox.totals() == Totals(pending=2, parked=1, bytes=7, oldest_captured_at=20)
    outbox.commit(parked(2, 3))
    assert outbox.totals() == Totals(pending=0, parked=3, bytes=7, oldest_captured_at=None)


def test_totals_see_what_others_did(database: Database, outbox: Outbox) -> None:
    append(outbox, 1, 2, 3, 4)
    database.park(1, 2)
    database.discard(3)
    database.redrive(2)

    assert outbox.totals() == Totals(pending=2, parked=1, bytes=6, oldest_captured_at=20)


def test_room_may_be_asked_for_by_any_thread(outbox: Outbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        answers = [pool.submit(outbox.is_room_low, was_low=each).result() for each in (True, False)]

    assert answers in ([True, True], [True, False], [False, False]), "low asks for twice the room"


def test_tidying_changes_nothing_that_is_stored(database: Database, outbox: Outbox) -> None:
    outbox.commit(appended(*(entry(number, b"x" * 5000) for number in range(1, 200))))
    outbox.commit(report(range(1, 190)))
    before = database.contents()
    for _ in range(5):
        outbox.tidy()

    assert database.contents() == before
    append(outbox, 200)
    assert numbers(outbox, 0) == list(range(190, 201))
