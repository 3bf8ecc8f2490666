"""What an outbox knows when the store starts."""

import pytest

from replicator.domain.model import Known
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.outbox.port import Outbox, Totals
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import DIGEST, append, inserted, parked, report


def test_a_new_outbox_gets_an_identity_that_it_keeps(database: Database) -> None:
    found = database.open().prepare(now=7)
    again = database.open().prepare(now=8)

    assert len(found.outbox_id) == 8
    assert found == again
    assert found[1:] == (0, 1, 0, Totals(0, 0, 0, None))
    assert database.rows("SELECT outbox_id, created_at FROM meta") == [(found.outbox_id, 7)]


def test_two_outboxes_have_different_identities(database: Database) -> None:
    first = database.open().prepare(now=7)
    with database.other() as connection:
        connection.exec_driver_sql("DELETE FROM meta")

    assert database.open().prepare(now=7).outbox_id != first.outbox_id


def test_the_next_process_knows_what_the_last_one_left(database: Database, outbox: Outbox) -> None:
    append(outbox, 1, 2, 3, 4)
    outbox.commit(parked(2))
    outbox.commit(inserted({"1": Known(8, DIGEST)}))
    database.order(at=1, actor="me", action="resync", feed_id=1)
    database.order(at=2, actor="me", action="resync", feed_id=1)
    found = database.open().prepare(now=9)

    assert found[1:] == (4, 9, 2, Totals(pending=3, parked=1, bytes=8, oldest_captured_at=10))


def test_a_number_is_not_given_out_again_when_its_entry_is_gone(
    database: Database, outbox: Outbox
) -> None:
    append(outbox, 1, 2, 3)
    outbox.commit(report([1, 2, 3]))

    assert database.open().prepare(now=9)[1:] == (3, 1, 0, Totals(0, 0, 0, None))


def test_a_start_that_fails_anywhere_leaves_a_new_outbox_new(database: Database) -> None:
    outbox = database.open()
    with database.failing(None) as counted:
        outbox.prepare(now=1)
    with database.other() as connection:
        connection.exec_driver_sql("DELETE FROM meta")
    for statement in range(1, counted.statements + 1):
        with database.failing(statement) as failure, pytest.raises(OutboxUnavailable):
            outbox.prepare(now=2)
        assert failure.has_happened
        assert database.rows("SELECT * FROM meta") == []

    assert outbox.prepare(now=3).last_entry == 0


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE meta SET last_entry = 2", "row 3: 2 is the last number given out"),
        ("UPDATE meta SET last_entry = -1", "its table meta"),
        ("UPDATE meta SET outbox_id = 'NOT GOOD'", "its table meta"),
        ("UPDATE entries SET feed_id = 77 WHERE id = 2", "row 2: its feed is missing"),
        ("UPDATE entries SET state = 'lost' WHERE id = 2", "entries"),
        ("UPDATE entries SET captured_at = -5 WHERE id = 2", "entries"),
        ("UPDATE documents SET id = 9223372036854775807", "documents, row 9223372036854775807"),
    ],
)
def test_rows_that_contradict_each_other_end_the_start(
    database: Database, outbox: Outbox, statement: str, complaint: str
) -> None:
    append(outbox, 1, 2, 3)
    outbox.commit(inserted({"1": Known(1, DIGEST)}))
    database.damage(statement)

    with pytest.raises(OutboxUnusable, match=complaint) as caught:
        database.open().prepare(now=9)
    assert caught.value.hint


def test_closing_is_safe_to_repeat(outbox: Outbox) -> None:
    outbox.close()
    outbox.close()


def test_a_database_that_was_replaced_is_noticed(database: Database, outbox: Outbox) -> None:
    outbox.require_in_place()
    outbox.require_in_place()
    database.replace()

    with pytest.raises(OutboxUnusable, match="removed or replaced"):
        outbox.require_in_place()


def test_what_was_captured_is_kept_when_the_process_ends_without_a_word(
    database: Database, outbox: Outbox
) -> None:
    append(outbox, 1)
    before = database.contents()
    database.open()

    assert database.contents() == before
    assert database.rows("SELECT id FROM entries") == [(1,)]
