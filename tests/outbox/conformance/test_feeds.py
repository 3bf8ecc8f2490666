"""The feeds of tables, and their gaps."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import update

from replicator.domain.feed import Feed, Gap
from replicator.domain.feed_state import FeedState
from replicator.domain.guard import Guard
from replicator.domain.model import MAX_COUNT, Cause, Known, TableName
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.outbox.feeds import columns, stored_guard
from replicator.outbox.port import Outbox, Step
from replicator.outbox.schema import feeds
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import DIGEST, NAME, OTHER, feed_of, inserted


def save(outbox: Outbox, *states: Feed) -> None:
    """Commit the way of a feed from one to the next."""
    for before, after in pairwise(states):
        outbox.commit(Step(feeds=[(before, after)]))


# Registering.


def test_a_feed_is_made_once_and_found_again(database: Database, outbox: Outbox) -> None:
    made = outbox.register(OTHER, "{}")
    found = outbox.register(OTHER, "{}")

    assert made == found._replace(is_new=True)
    assert (made.row.name, made.row.projection, made.row.state) == (OTHER, "{}", FeedState.LOST)
    assert made.gap is None
    assert database.rows("SELECT id, database_name, table_name, state FROM feeds ORDER BY id") == [
        (1, *NAME, "lost"),
        (made.row.id, *OTHER, "lost"),
    ]


def test_a_feed_that_is_found_is_lost_and_else_as_it_was_left(
    database: Database, outbox: Outbox
) -> None:
    lost = feed_of(outbox.register(NAME, "{}"))
    ready = replace(
        lost,
        state=FeedState.READY,
        table_id="T1",
        indexed_key="id",
        opened_at=1,
        alive_at=2,
        first_ready_at=3,
        ready_at=4,
        changed_at=5,
        captured=6,
        compared=7,
        skipped=8,
        last_error="no",
        last_error_at=9,
        absorb_changed=True,
        gap=Gap(Cause.OVERFLOW, 10, 1, 2, 3, 4),
    )
    save(outbox, lost, ready)
    outbox = database.open()
    found = outbox.register(NAME, "{}")

    assert feed_of(found) == replace(ready, state=FeedState.LOST)
    assert not found.is_new
    assert database.rows("SELECT state FROM feeds") == [("lost",)]


def test_documents_are_forgotten_when_other_fields_are_to_be_indexed(
    database: Database, outbox: Outbox
) -> None:
    other = outbox.register(OTHER, "{}").row.id
    outbox.commit(inserted({"1": Known(1, DIGEST, b"secret")}))
    outbox.commit(inserted({"1": Known(2, DIGEST, b"kept")}, other))
    outbox.register(NAME, "{}")
    assert database.rows("SELECT document FROM documents") == [(b"secret",), (b"kept",)]
    found = outbox.register(NAME, '{"exclude":["v"]}')

    assert found.row.projection == "{}", "until the index is over the new fields"
    assert database.rows("SELECT digest, document FROM documents ORDER BY id") == [
        (DIGEST, None),
        (DIGEST, b"kept"),
    ]


@pytest.mark.parametrize("projection", ["{}", '{"exclude":["v"]}'])
def test_registering_that_fails_anywhere_leaves_nothing_and_can_be_done_again(
    database: Database, outbox: Outbox, projection: str
) -> None:
    lost = feed_of(outbox.register(NAME, "{}"))
    save(outbox, lost, replace(lost, state=FeedState.READY))
    outbox.commit(inserted({"1": Known(1, DIGEST, b"{}")}))
    before = database.contents()
    for name in (NAME, OTHER):
        statement, has_failed = 1, True
        while has_failed:
            with database.failing(statement) as failure:
                try:
                    outbox.register(name, projection)
                except OutboxUnavailable:
                    assert database.contents() == before
            has_failed = failure.has_happened
            statement += 1
        before = database.contents()

    assert len(before["feeds"]) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE feeds SET state = 'sleeping'",
        "UPDATE feeds SET captured = -1",
        "UPDATE feeds SET ready_at = 'soon'",
        "UPDATE gaps SET cause = 'whim'",
        "UPDATE gaps SET opened_at = -1",
        "INSERT INTO gaps (feed_id, cause, opened_at) VALUES (1, 'start', 1)",
    ],
)
def test_a_feed_that_no_outbox_writes_is_not_registered(
    database: Database, outbox: Outbox, statement: str
) -> None:
    lost = feed_of(outbox.register(NAME, "{}"))
    save(outbox, lost, replace(lost, gap=Gap(Cause.START, 1)))
    database.damage(statement)

    with pytest.raises(OutboxUnusable, match=r"is damaged: in its table (feeds|gaps), "):
        outbox.register(NAME, "{}")


def test_every_table_that_ever_had_a_feed_is_known(outbox: Outbox) -> None:
    other = outbox.register(OTHER, "{}").row.id
    elsewhere = TableName("db2", "t")
    ids = {1: NAME, other: OTHER, outbox.register(elsewhere, "{}").row.id: elsewhere}
    lost = feed_of(outbox.register(OTHER, "{}"))
    save(outbox, lost, replace(lost, state=FeedState.DROPPED))

    assert outbox.tables() == ids
    assert sorted(outbox.not_dropped(["db", "db2", "db3"])) == [NAME, elsewhere]
    assert outbox.not_dropped(["db"]) == [NAME]
    assert outbox.not_dropped([]) == []


# The row of a feed is written as the difference.

INSTANTS = st.none() | st.integers(0, 253_402_300_799_999_999)
COUNTS = st.integers(0, MAX_COUNT)
GUARDS = st.none() | st.builds(
    Guard,
    at=st.integers(0, 253_402_300_799_999_999),
    deletes=COUNTS,
    documents=COUNTS,
    keys=st.lists(st.sampled_from(['"ü"', "7", '["a",1]']), max_size=3).map(tuple),
    table_id=st.none() | st.just("T"),
    accepted=st.none() | COUNTS,
)
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
# RethinkDB takes half a surrogate pair in the name of a field.
NAMES = st.none() | st.text(max_size=4) | st.just('"quoted') | st.just("\ud800")
KEPT = st.fixed_dictionaries(
    {
        "indexed_projection": st.sampled_from(["{}", '{"exclude":["v"]}']),
        "indexed_key": NAMES,
        "absorb_changed": st.booleans(),
        "state": st.sampled_from(FeedState),
        "table_id": TEXTS,
        "last_error": TEXTS,
        "guard": GUARDS,
        **dict.fromkeys(("captured", "compared", "skipped"), COUNTS),
        **dict.fromkeys(
            ("opened_at", "alive_at", "first_ready_at", "ready_at", "changed_at", "last_error_at"),
            INSTANTS,
        ),
    }
)


def row_of(database: Database, feed_id: int) -> dict[str, Any]:
    with database.engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM feeds WHERE id = {feed_id}")
        return dict(found.mappings().one())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(KEPT, min_size=1, max_size=4))
def test_after_any_changes_the_row_of_a_feed_says_what_the_feed_is(
    database: Database, outbox: Outbox, states: list[dict[str, Any]]
) -> None:
    before = feed_of(outbox.register(NAME, "{}"))
    untouched = row_of(database, outbox.register(OTHER, "{}").row.id)
    for kept in states:
        after = replace(before, **kept)
        save(outbox, before, after)
        before = after
        row = row_of(database, 1)
        assert {name: row[name] for name in columns(after)} == columns(after)
        assert set(row) - set(columns(after)) == {"id", "database_name", "table_name"}

    assert row_of(database, untouched["id"]) == untouched
    found = outbox.register(NAME, "{}").row
    assert found.kept() == {**states[-1], "state": FeedState.LOST}


def test_a_primary_key_that_was_written_as_it_stands_is_read_as_it_stands(
    database: Database, outbox: Outbox
) -> None:
    """Versions before the rule that names with quotes are JSON wrote them so."""
    for name in ('"odd', '"', "plain"):
        database.damage(f"UPDATE feeds SET primary_key = '{name}'")
        assert outbox.register(NAME, "{}").row.kept()["indexed_key"] == name


def test_what_a_command_accepts_of_a_guard_stays_until_the_guard_itself_is_saved(
    database: Database, outbox: Outbox
) -> None:
    """The command writes it beside the store, which hears of it later."""
    registered = feed_of(outbox.register(NAME, "{}"))
    guard = Guard(5, 2000, 3000, ('"a"',), "T")
    held = replace(registered, guard=guard)
    save(outbox, registered, held)
    with database.other() as connection:
        connection.execute(update(feeds).values(guard=stored_guard(replace(guard, accepted=2000))))
    counted = replace(held, captured=9)
    save(outbox, held, counted)
    assert outbox.register(NAME, "{}").row.kept()["guard"] == Guard(
        5, 2000, 3000, ('"a"',), "T", 2000
    )

    again = Guard(6, 2500, 3000, ('"b"',), "T")
    save(outbox, counted, replace(counted, guard=again))
    assert outbox.register(NAME, "{}").row.kept()["guard"] == again


@pytest.mark.parametrize(
    "stored", ["no JSON", "{}", '{"at":1,"deletes":-1,"documents":1,"keys":[],"table_id":null}']
)
def test_a_guard_that_no_outbox_writes_is_damage(
    database: Database, outbox: Outbox, stored: str
) -> None:
    outbox.register(NAME, "{}")
    database.damage(f"UPDATE feeds SET guard = '{stored}'")

    with pytest.raises(OutboxUnusable, match="guard is unreadable"):
        outbox.register(NAME, "{}")


def test_several_feeds_are_saved_in_one_step(database: Database, outbox: Outbox) -> None:
    first = feed_of(outbox.register(NAME, "{}"))
    second = feed_of(outbox.register(OTHER, "{}"))
    changed = [replace(first, captured=1), replace(second, state=FeedState.READY, skipped=2)]
    outbox.commit(Step(feeds=[(first, changed[0]), (second, changed[1])]))

    assert database.rows("SELECT state, captured, skipped FROM feeds ORDER BY id") == [
        ("lost", 1, 0),
        ("ready", 0, 2),
    ]


# Gaps.


def gaps(database: Database) -> list[tuple[Any, ...]]:
    return database.rows(
        "SELECT feed_id, cause, opened_at, created, updated, deleted, skipped, closed_at "
        "FROM gaps ORDER BY id"
    )


def test_a_gap_is_opened_repaired_and_closed_with_its_feed(
    database: Database, outbox: Outbox
) -> None:
    lost = feed_of(outbox.register(NAME, "{}"))
    opened = replace(lost, gap=Gap(Cause.OVERFLOW, 5))
    save(outbox, lost, opened)
    assert gaps(database) == [(1, "overflow", 5, 0, 0, 0, 0, None)]
    repaired = replace(opened, gap=Gap(Cause.OVERFLOW, 5, 1, 2, 3, 4))
    save(outbox, opened, repaired)
    assert gaps(database) == [(1, "overflow", 5, 1, 2, 3, 4, None)]
    assert outbox.register(NAME, "{}").gap == repaired.gap
    closed = replace(repaired, gap=Gap(Cause.OVERFLOW, 5, 1, 2, 3, 4, closed_at=9))
    save(outbox, repaired, closed)

    assert gaps(database) == [(1, "overflow", 5, 1, 2, 3, 4, 9)]
    assert outbox.register(NAME, "{}").gap is None
    assert database.rows("SELECT count(*) FROM feeds WHERE state = 'lost'") == [(1,)]


def test_a_gap_that_is_closed_stays_as_it_is_while_the_feed_goes_on(
    database: Database, outbox: Outbox
) -> None:
    lost = feed_of(outbox.register(NAME, "{}"))
    closed = replace(lost, gap=Gap(Cause.START, 5, closed_at=6))
    save(outbox, lost, closed, replace(closed, captured=9))

    assert gaps(database) == [(1, "start", 5, 0, 0, 0, 0, 6)]


@pytest.mark.parametrize("opened_at", [5, 7])
def test_the_next_gap_is_another_one_even_if_it_began_at_the_same_instant(
    database: Database, outbox: Outbox, opened_at: int
) -> None:
    """An aborted feed's gap is said to begin fifteen seconds before it was known to be complete."""
    lost = feed_of(outbox.register(NAME, "{}"))
    closed = replace(lost, gap=Gap(Cause.START, 5, closed_at=6))
    again = replace(lost, gap=Gap(Cause.ABORTED, opened_at))
    save(outbox, lost, closed, again, replace(lost, gap=Gap(Cause.ABORTED, opened_at, 1)))

    assert gaps(database) == [
        (1, "start", 5, 0, 0, 0, 0, 6),
        (1, "aborted", opened_at, 1, 0, 0, 0, None),
    ]


def test_feeds_have_gaps_of_their_own(database: Database, outbox: Outbox) -> None:
    first = feed_of(outbox.register(NAME, "{}"))
    second = feed_of(outbox.register(OTHER, "{}"))
    opened = [replace(each, gap=Gap(Cause.START, 5)) for each in (first, second)]
    outbox.commit(Step(feeds=[(first, opened[0]), (second, opened[1])]))
    save(outbox, opened[1], replace(second, gap=Gap(Cause.START, 5, deleted=3, closed_at=9)))

    assert gaps(database) == [
        (1, "start", 5, 0, 0, 0, 0, None),
        (second.id, "start", 5, 0, 0, 3, 0, 9),
    ]
