"""The one place where changes are committed: whole, or not at all."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from replicator.domain.feed import Gap
from replicator.domain.feed_state import FeedState
from replicator.domain.index import IndexChange
from replicator.domain.model import Cause, Failure, Known, Outcomes
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.outbox.port import Committed, Outbox, Step
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import (
    DIGEST,
    NAME,
    OTHER,
    append,
    appended,
    entry,
    feed_of,
    inserted,
    parked,
    report,
)


def states(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT id, state, attempts, reason, last_error FROM entries ORDER BY id")


def left(database: Database) -> list[int]:
    return [row[0] for row in database.rows("SELECT id FROM entries ORDER BY id")]


def a_step_of_everything(outbox: Outbox) -> Step:
    """Return a step that changes each table in each way, and commit what it changes."""
    lost = feed_of(outbox.register(NAME, "{}"))
    other = feed_of(outbox.register(OTHER, "{}"))
    append(outbox, 1, 2, 3, 4, 5)
    outbox.commit(inserted({str(n): Known(n, DIGEST) for n in range(1, 5)}))
    with_gap = replace(other, gap=Gap(Cause.OVERFLOW, 5))
    outbox.commit(Step(feeds=[(other, with_gap)]))
    change = IndexChange(
        inserted={"1": Known(9, DIGEST), **{str(n): Known(n, DIGEST) for n in range(100, 300)}},
        updated={"2": Known(2, b"e" * 16, b"{}")},
        deleted=[1, 3],
        forgets_deleted=True,
    )
    return Step(
        [entry(number) for number in range(6, 160)],
        last_entry=159,
        index_changes={1: change, other.id: IndexChange(inserted={"1": Known(400, DIGEST)})},
        feeds=[
            (lost, replace(lost, state=FeedState.READY, captured=7, gap=Gap(Cause.START, 1))),
            (with_gap, replace(with_gap, skipped=3, gap=Gap(Cause.OVERFLOW, 5, 1, 2, 3, 4, 9))),
        ],
        outcomes=[
            Outcomes([1, 2], 4, failed=[Failure(4, "nacked", "no")]),
            Outcomes([5], 2, parked=[Failure(3, "too_large", "16 MiB")]),
        ],
    )


def test_a_commit_that_fails_anywhere_leaves_nothing_and_can_be_done_again(
    database: Database, outbox: Outbox
) -> None:
    step = a_step_of_everything(outbox)
    before = database.contents()
    statement, has_failed = 1, True
    while has_failed:
        with database.failing(statement) as failure:
            try:
                committed = outbox.commit(step)
            except OutboxUnavailable:
                assert failure.has_happened
                assert database.contents() == before, f"statement {statement} left something"
        has_failed = failure.has_happened
        statement += 1

    assert statement > 10
    assert committed == Committed(oldest_pending=(4, 40), is_as_reported=True)
    after = database.contents()
    assert all(before[name] != after[name] for name in ("entries", "documents", "feeds", "gaps"))
    assert outbox.totals().pending == 155
    assert len(after["documents"]) == 2 + 201 + 1


def test_a_commit_after_one_that_failed_has_nothing_of_it(
    database: Database, outbox: Outbox
) -> None:
    step = a_step_of_everything(outbox)
    for statement in (2, 4, 6):
        with database.failing(statement), pytest.raises(OutboxUnavailable):
            outbox.commit(step)
    outbox.commit(appended(entry(6)))

    assert left(database) == [1, 2, 3, 4, 5, 6]
    assert database.rows("SELECT last_entry FROM meta") == [(6,)]


def test_a_step_with_nothing_in_it_changes_nothing(database: Database, outbox: Outbox) -> None:
    append(outbox, 1)
    before = database.contents()

    assert outbox.commit(Step(last_entry=1)) == ((1, 10), True)
    assert database.contents() == before


def test_another_process_sees_a_commit_as_soon_as_it_has_returned(
    database: Database, outbox: Outbox
) -> None:
    append(outbox, 1)

    assert left(database) == [1]


# Entries.


@pytest.mark.parametrize("many", [1, 2, 99, 100, 101, 163, 400])
def test_any_number_of_entries_is_appended_once_each(
    database: Database, outbox: Outbox, many: int
) -> None:
    outbox.commit(appended(*map(entry, range(1, many + 1))))

    assert left(database) == list(range(1, many + 1))
    assert database.rows("SELECT last_entry FROM meta") == [(many,)]
    assert states(database)[-1] == (many, "pending", 0, None, None)


def test_a_number_that_is_in_use_is_not_used_again(database: Database, outbox: Outbox) -> None:
    append(outbox, 1, 2)
    before = database.contents()

    with pytest.raises(OutboxUnusable):
        outbox.commit(appended(entry(3), entry(2, b"other")))
    assert database.contents() == before


def test_what_is_settled_is_gone_and_nothing_else(database: Database, outbox: Outbox) -> None:
    append(outbox, *range(1, 11))
    committed = outbox.commit(report([9, 2, 3, 4, 7]))

    assert left(database) == [1, 5, 6, 8, 10]
    assert committed == ((1, 10), True)


def test_what_several_reports_say_is_done_in_one_commit(database: Database, outbox: Outbox) -> None:
    append(outbox, *range(1, 8))
    outcomes = [
        Outcomes([1]),
        Outcomes(failed=[Failure(2, "nacked", "no", 2)]),
        Outcomes([3], failed=[Failure(2, "nacked", "again")], parked=[Failure(4, "big", "16 MiB")]),
        Outcomes(reading=5),
        Outcomes([6, 5]),
    ]

    assert outbox.commit(Step(last_entry=7, outcomes=outcomes)) == ((2, 20), True)
    assert states(database) == [
        (2, "pending", 3, None, "nacked: again"),
        (4, "parked", 1, "big", "16 MiB"),
        (7, "pending", 0, None, None),
    ]


def test_settling_is_safe_to_repeat_and_says_that_it_was_done_before(
    database: Database, outbox: Outbox
) -> None:
    append(outbox, 1, 2)
    assert outbox.commit(report([1])).is_as_reported
    assert outbox.commit(report([1])) == ((2, 20), False)
    assert outbox.commit(report([2, 2])) == (None, False)

    assert left(database) == []


def test_only_pending_entries_are_settled(database: Database, outbox: Outbox) -> None:
    append(outbox, 1, 2, 3)
    database.park(2)

    assert outbox.commit(report([1, 2, 3])) == (None, False)
    assert [row[:2] for row in states(database)] == [(2, "parked")]


def test_an_entry_is_parked_with_its_reason(database: Database, outbox: Outbox) -> None:
    append(outbox, 1, 2)
    outbox.commit(report(failed=[Failure(2, "nacked", "no", 3)]))

    assert outbox.commit(parked(2)) == ((1, 10), True)
    assert states(database)[1:] == [(2, "parked", 4, "too_large", "16 MiB")]


@pytest.mark.parametrize("number", [1, 2, 77])
def test_what_is_not_pending_any_more_is_not_parked(
    database: Database, outbox: Outbox, number: int
) -> None:
    append(outbox, 1, 2, 3)
    database.park(1)
    outbox.commit(report([2]))
    before = database.contents()

    assert outbox.commit(parked(number)) == ((3, 30), False)
    assert database.contents() == before


def test_a_failure_of_an_entry_that_others_discarded_changes_nothing(
    database: Database, outbox: Outbox
) -> None:
    append(outbox, 1, 2)
    database.discard(1)
    outbox.commit(report(failed=[Failure(1, "nacked", "no")]))

    assert states(database) == [(2, "pending", 0, None, None)]


_OWN_MOVES = ["append", "append", "settle", "settle", "park", "fail", "nothing"]
_MOVES = st.sampled_from([*_OWN_MOVES, "redrive", "redrive", "park by hand", "discard"])
_NUMBERS = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=st.lists(st.tuples(_MOVES, _NUMBERS), min_size=4, max_size=12))
def test_a_commit_says_which_pending_entry_is_the_oldest(
    database: Database, moves: Sequence[tuple[str, list[int]]]
) -> None:
    """Whatever was done before, by whomever: what others did counts once `version` was asked."""
    with database.other() as connection:
        for table in ("entries", "feeds", "meta"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    outbox = database.open()
    outbox.prepare(now=1)
    outbox.register(NAME, "{}")
    outbox.version()
    with database.other() as connection:
        connection.exec_driver_sql("UPDATE feeds SET id = 1")
    last = 0
    for move, numbers in moves:
        failures = [Failure(number, "nacked", "no") for number in numbers]
        match move:
            case "append":
                new = range(last + 1, last + 1 + len(numbers))
                last += len(numbers)
                committed = outbox.commit(Step([*map(entry, new)], last_entry=last))
            case "settle":
                committed = outbox.commit(report(numbers, last_entry=last))
            case "park":
                committed = outbox.commit(report(parked=failures, last_entry=last))
            case "fail":
                committed = outbox.commit(report(failed=failures, last_entry=last))
            case "nothing":
                committed = outbox.commit(Step(last_entry=last))
            case others:
                by_hand = {"park by hand": database.park, "redrive": database.redrive}
                by_hand.get(others, database.discard)(*numbers)
                outbox.version()
                continue
        oldest = database.rows(
            "SELECT id, captured_at FROM entries WHERE state = 'pending' ORDER BY id LIMIT 1"
        )
        assert committed.oldest_pending == (oldest[0] if oldest else None)


# The index.


def test_the_index_is_changed_as_a_step_says(database: Database, outbox: Outbox) -> None:
    outbox.commit(inserted({"1": Known(1, DIGEST), "2": Known(2, DIGEST), "3": Known(3, DIGEST)}))
    change = IndexChange(
        inserted={"1": Known(4, b"c" * 16)},
        updated={"2": Known(2, b"e" * 16, b"{}")},
        deleted=[1],
    )
    outbox.commit(Step(index_changes={1: change}))

    assert database.rows("SELECT id, key, digest, document FROM documents ORDER BY key") == [
        (4, "1", b"c" * 16, None),
        (2, "2", b"e" * 16, b"{}"),
        (3, "3", DIGEST, None),
    ]


@pytest.mark.parametrize("many", [1, 100, 101, 250])
def test_any_number_of_rows_is_inserted_updated_and_deleted(outbox: Outbox, many: int) -> None:
    keys = [str(number) for number in range(1, many + 1)]
    outbox.commit(inserted({key: Known(int(key), DIGEST) for key in keys}))
    changed = {key: Known(int(key), b"e" * 16, key.encode()) for key in keys}
    outbox.commit(Step(index_changes={1: IndexChange(updated=changed)}))
    assert outbox.look_up(1, keys, with_documents=True, is_in_order=False) == changed

    outbox.commit(Step(index_changes={1: IndexChange(deleted=[int(key) for key in keys[1:]])}))
    found = outbox.look_up(1, keys, with_documents=True, is_in_order=False)
    assert found == {"1": changed["1"]}


def test_rows_that_only_say_deleted_go_when_the_step_says_so(
    database: Database, outbox: Outbox
) -> None:
    other = outbox.register(OTHER, "{}").row.id
    deleted = bytes(16)
    outbox.commit(inserted({"1": Known(1, deleted), "2": Known(2, DIGEST)}))
    outbox.commit(inserted({"1": Known(3, deleted)}, other))
    change = IndexChange(
        inserted={"3": Known(4, deleted)}, updated={"2": Known(2, deleted)}, forgets_deleted=True
    )
    outbox.commit(Step(index_changes={1: change}))

    assert database.rows("SELECT id, feed_id FROM documents") == [(3, other)]


@pytest.mark.parametrize("row", [("1", Known(2, DIGEST)), ("9", Known(1, DIGEST))])
def test_neither_a_key_nor_an_id_has_a_second_row(
    database: Database, outbox: Outbox, row: tuple[str, Known]
) -> None:
    outbox.commit(inserted({"1": Known(1, DIGEST)}))
    before = database.contents()

    with pytest.raises(OutboxUnusable):
        outbox.commit(inserted(dict([row])))
    assert database.contents() == before
