"""From feed to outbox, one step at a time: snapshots, live changes, gaps and their repair."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.domain.feed_state import FeedState
from replicator.domain.items import SnapshotRead
from replicator.domain.model import Cause
from tests.support.feed_elements import add, change, initial, remove
from tests.support.outbox import SECOND, Outbox, outbox, table

A1, A2, B1, C1 = ({"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": "b", "v": 1}, {"id": "c"})


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    with outbox(tmp_path) as made:
        yield made


def snapshot(box: Outbox, *documents: dict[str, object]) -> None:
    """Open the feed, read a whole snapshot, and compare it."""
    box.step(box.opened(), box.batch(*map(initial, documents)), box.ready())


def gaps(box: Outbox) -> list[tuple[object, ...]]:
    return box.rows("SELECT cause, created, updated, deleted, skipped FROM gaps ORDER BY id")


def test_the_first_snapshot_publishes_every_document_as_a_create(box: Outbox) -> None:
    snapshot(box, A1, B1)

    assert box.sink.said() == [
        ("create", "snapshot", {"old_val": None, "new_val": A1}),
        ("create", "snapshot", {"old_val": None, "new_val": B1}),
    ]
    assert box.sink.numbers == [1, 2]
    assert box.feed().state is FeedState.READY
    assert gaps(box) == []
    assert box.value("replicator_resyncs_total", table="db.t", cause="start") == 0


def test_a_live_change_is_captured_after_the_snapshot(box: Outbox) -> None:
    snapshot(box, A1)
    box.step(box.batch(change(A1, A2), add(B1), remove(B1)))

    assert box.sink.said()[1:] == [
        ("update", "feed", {"old_val": A1, "new_val": A2}),
        ("create", "feed", {"old_val": None, "new_val": B1}),
        ("delete", "feed", {"old_val": B1, "new_val": None}),
    ]
    captured = box.value(
        "replicator_changes_captured_total", table="db.t", op="update", origin="feed"
    )
    assert captured == 1
    assert box.rows("SELECT count(*) FROM documents") == [(1,)]


def test_a_restart_over_an_unchanged_table_publishes_and_writes_nothing(box: Outbox) -> None:
    snapshot(box, A1, B1)
    before = box.rows("SELECT * FROM documents")
    again = box.restart(room=0)
    snapshot(again, A1, B1)

    assert again.rows("SELECT * FROM documents") == before
    assert again.rows("SELECT last_entry FROM meta") == [(2,)]
    assert again.value("replicator_resyncs_total", table="db.t", cause="start") == 1
    assert gaps(again) == [("start", 0, 0, 0, 0)]
    again.close()


def test_a_restart_finds_what_was_created_changed_and_deleted_meanwhile(box: Outbox) -> None:
    snapshot(box, A1, B1)
    box.settle(*box.sink.entries)
    again = box.restart()
    snapshot(again, A2, C1)

    assert again.sink.said() == [
        ("update", "resync", {"old_val": None, "new_val": A2}),
        ("create", "resync", {"old_val": None, "new_val": C1}),
        ("delete", "resync", {"old_val": {"id": "b"}, "new_val": None}),
    ]
    assert again.sink.numbers == [3, 4, 5]
    assert gaps(again) == [("start", 1, 1, 1, 0)]
    assert again.rows("SELECT count(*) FROM gaps WHERE closed_at IS NULL") == [(0,)]
    for op in ("create", "update", "delete"):
        assert again.value("replicator_resync_repairs_total", table="db.t", op=op) == 1
    again.close()


def test_the_gap_of_a_crash_begins_at_the_last_sign_of_life(box: Outbox) -> None:
    snapshot(box, A1)
    box.step(box.batch(change(A1, A2)))
    seen_at = box.feed().alive_at
    again = box.restart()
    snapshot(again, A2)

    assert again.rows("SELECT opened_at, closed_at FROM gaps") == [(seen_at - SECOND, again.now)]
    again.close()


def test_an_orderly_stop_records_its_gap_at_the_next_start(box: Outbox) -> None:
    snapshot(box, A1)
    box.step(box.closed(Cause.START, error=""))
    stopped_at = box.feed().alive_at
    assert gaps(box) == []

    again = box.restart()
    snapshot(again, A1)
    assert again.rows("SELECT cause, opened_at FROM gaps") == [("start", stopped_at - SECOND)]
    again.close()


@pytest.mark.parametrize("cause", [Cause.DISCONNECT, Cause.OVERFLOW, Cause.ABORTED])
def test_a_lost_feed_opens_a_gap_that_the_next_snapshot_repairs(box: Outbox, cause: Cause) -> None:
    snapshot(box, A1)
    box.step(box.closed(cause, "it broke", skipped=202))
    assert box.feed().state is FeedState.LOST
    assert box.feed().last_error == "it broke"
    assert box.value("replicator_gaps_total", table="db.t", cause=cause.value) == 1
    assert box.value("replicator_changes_skipped_total", table="db.t") == 202

    snapshot(box, A2)
    assert gaps(box) == [(cause.value, 0, 1, 0, 202)]
    assert box.value("replicator_resyncs_total", table="db.t", cause=cause.value) == 1
    assert box.feed().last_error is None


def test_a_feed_that_cannot_be_opened_again_stays_in_one_gap(box: Outbox) -> None:
    snapshot(box, A1)
    box.step(box.closed())
    box.step(box.closed(error="refused"))
    box.step(box.closed(error="refused again"))
    assert box.feed().last_error == "refused again"
    snapshot(box, A1)

    assert len(gaps(box)) == 1


def test_an_open_gap_survives_a_crash_of_the_process(box: Outbox) -> None:
    snapshot(box, A1)
    box.step(box.closed(Cause.OVERFLOW))
    again = box.restart()
    snapshot(again, A2)

    assert gaps(again) == [("overflow", 0, 1, 0, 0)]
    again.close()


def test_a_feed_that_was_never_open_has_no_gap(box: Outbox) -> None:
    box.step(box.closed(error="connection refused"))

    assert gaps(box) == []
    assert box.feed().state is FeedState.LOST


def test_a_snapshot_that_breaks_off_starts_again_and_publishes_nothing_twice(box: Outbox) -> None:
    box.step(box.opened(), box.batch(initial(A1)))
    box.step(box.closed())
    snapshot(box, A1, B1)

    assert [(op, origin) for op, origin, _ in box.sink.said()] == [("create", "snapshot")] * 2
    assert gaps(box) == [("disconnect", 0, 0, 0, 0)]


def test_documents_deleted_while_the_first_snapshot_was_broken_off_are_deletes(
    box: Outbox,
) -> None:
    box.step(box.opened(), box.batch(initial(A1)))
    again = box.restart()
    snapshot(again, B1)

    assert [op for op, _, _ in again.sink.said()] == ["create", "create", "delete"]
    again.close()


def test_a_live_create_during_the_snapshot_is_not_taken_for_a_deleted_document(
    box: Outbox,
) -> None:
    snapshot(box, A1)
    box.step(box.closed())
    box.step(box.opened(), box.batch(add(B1), initial(A1), change(B1, {"id": "b", "v": 2})))
    box.step(box.ready())

    assert [op for op, _, _ in box.sink.said()] == ["create", "create", "update"]
    assert box.feed().state is FeedState.READY


def test_a_live_delete_during_the_snapshot_is_published_once(box: Outbox) -> None:
    snapshot(box, A1)
    box.step(box.closed())
    box.step(box.opened(), box.batch(initial(A1), remove(A1)), box.ready())

    assert [(op, origin) for op, origin, _ in box.sink.said()[1:]] == [("delete", "feed")]


def test_a_baseline_records_a_table_without_publishing_it(tmp_path: Path) -> None:
    with outbox(tmp_path, table(is_baseline=True)) as box:
        snapshot(box, A1, B1)
        assert box.sink.entries == []
        box.step(box.batch(change(A1, A2)))
        box.step(box.closed())
        snapshot(box, A2, C1)

        assert [(op, origin) for op, origin, _ in box.sink.said()] == [
            ("update", "feed"),
            ("create", "resync"),
            ("delete", "resync"),
        ]


@pytest.mark.parametrize("keeps", [False, True])
def test_a_baseline_publishes_what_was_deleted_and_made_again_before_it_was_complete(
    tmp_path: Path,
    keeps: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    with outbox(tmp_path, table(is_baseline=True, keep_documents=keeps)) as box:
        box.step(box.opened(), box.batch(initial(A1), initial(B1), remove(A1), remove(B1)))
        box.step(box.closed())
        snapshot(box, A2)

        assert [(op, origin) for op, origin, _ in box.sink.said()] == [
            ("delete", "feed"),
            ("delete", "feed"),
            ("create", "resync"),
        ]
        assert box.rows("SELECT key FROM documents") == [('"a"',)]


def test_a_baseline_keeps_no_trace_of_what_was_deleted(tmp_path: Path) -> None:
    with outbox(tmp_path, table(is_baseline=True)) as box:
        box.step(box.opened(), box.batch(initial(A1), remove(A1), add(A2), remove(A2)))
        box.step(box.ready())

        assert [op for op, _, _ in box.sink.said()] == ["delete", "create", "delete"]
        assert box.rows("SELECT key FROM documents") == []


def test_kept_documents_are_the_old_values_of_a_resync(tmp_path: Path) -> None:
    with outbox(tmp_path, table(keep_documents=True)) as box:
        snapshot(box, A1, B1)
        box.step(box.closed())
        snapshot(box, A2)

        assert [body for _, _, body in box.sink.said()[2:]] == [
            {"old_val": A1, "new_val": A2},
            {"old_val": B1, "new_val": None},
        ]


def test_a_field_that_is_excluded_later_does_not_come_back_as_an_old_value(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with outbox(tmp_path, table(keep_documents=True)) as box:
        snapshot(box, {"id": "a", "ssn": "secret"}, {"id": "b", "ssn": "secret"})
        again = box.restart(table(keep_documents=True, projection='{"exclude":["ssn"]}'))
        snapshot(again, {"id": "a"})

        assert [body for _, origin, body in again.sink.said() if origin == "resync"] == [
            {"old_val": None, "new_val": {"id": "a"}},
            {"old_val": {"id": "b"}, "new_val": None},
        ]
        again.close()
    capfd.readouterr()


def test_a_field_that_was_included_only_for_a_while_does_not_come_back_as_an_old_value(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    without = table(keep_documents=True, projection='{"exclude":["ssn"]}')
    with outbox(tmp_path, without) as box:
        snapshot(box, {"id": "a"}, {"id": "b"})
        whole = box.restart(table(keep_documents=True))
        whole.step(whole.opened(), whole.batch(initial({"id": "a", "ssn": "secret"})))
        whole.step(whole.closed())
        again = whole.restart(without)
        snapshot(again, {"id": "a"})

        assert again.sink.said()[-2:] == [
            ("update", "resync", {"old_val": None, "new_val": {"id": "a"}}),
            ("delete", "resync", {"old_val": {"id": "b"}, "new_val": None}),
        ]
        again.close()
    capfd.readouterr()


# What was on its way when the server said that it had no more; longer when it may have been cut
# off from a primary without knowing it yet.
@pytest.mark.parametrize(("cause", "seconds"), [(Cause.OVERFLOW, 1), (Cause.ABORTED, 15)])
def test_a_gap_begins_before_the_feed_was_last_known_to_be_complete(
    box: Outbox, cause: Cause, seconds: int
) -> None:
    snapshot(box, A1)
    complete_at = box.now - 30_000_000
    box.step(box.closed(cause)._replace(complete_at=complete_at))

    ((opened_at,),) = box.rows("SELECT opened_at FROM gaps")
    assert opened_at == complete_at - seconds * SECOND


def test_an_orderly_stop_of_a_reader_that_is_behind_leaves_the_gap_its_true_beginning(
    box: Outbox,
) -> None:
    snapshot(box, A1)
    complete_at = box.now - 30_000_000
    box.step(box.closed(Cause.START, "")._replace(complete_at=complete_at))
    again = box.restart()
    again.step(again.opened())

    assert again.rows("SELECT cause, opened_at FROM gaps") == [("start", complete_at - SECOND)]
    again.close()


def test_the_old_primary_key_is_remembered_when_the_feed_is_lost_before_it_is_ready(
    box: Outbox,
) -> None:
    snapshot(box, A1)
    box.step(box.closed(Cause.ABORTED))
    box.step(box.opened("T2", key="uuid"), box.closed())
    box.step(box.opened("T2", key="uuid"), box.ready())

    assert box.sink.said()[-1][2] == {"old_val": {"id": "a"}, "new_val": None}


def test_other_fields_mean_every_document_is_compared_as_changed(
    box: Outbox, capfd: pytest.CaptureFixture[str]
) -> None:
    snapshot(box, A1)
    again = box.restart(table(projection='{"exclude":["v"]}'))
    snapshot(again, {"id": "a"})

    assert [op for op, _, _ in again.sink.said()] == ["create", "update"]
    assert again.rows("SELECT projection FROM feeds") == [('{"exclude":["v"]}',)]
    again.close()
    capfd.readouterr()


def test_changed_documents_can_be_taken_as_the_new_baseline_once(box: Outbox) -> None:
    snapshot(box, A1)
    box.settle(*box.sink.entries)
    with box.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE feeds SET absorb_changed = 1")
    again = box.restart(table(projection='{"exclude":["v"]}'))
    snapshot(again, {"id": "a"})
    assert again.sink.entries == []
    assert again.rows("SELECT absorb_changed FROM feeds") == [(0,)]

    again.step(again.closed())
    snapshot(again, {"id": "a", "w": 1})
    assert [op for op, _, _ in again.sink.said()] == ["update"]
    again.close()


def test_a_table_created_again_is_compared_and_its_old_documents_are_deletes(box: Outbox) -> None:
    snapshot(box, A1, B1)
    box.step(box.closed(Cause.ABORTED))
    box.step(box.opened("T2"), box.batch(initial(A1), initial(C1)), box.ready())

    assert [(op, body["new_val"] or body["old_val"]) for op, _, body in box.sink.said()[2:]] == [
        ("create", C1),
        ("delete", {"id": "b"}),
    ]
    assert box.rows("SELECT table_id FROM feeds") == [("T2",)]


def test_old_documents_of_a_table_created_with_another_primary_key_are_named_by_the_old(
    box: Outbox,
) -> None:
    snapshot(box, A1, B1)
    box.step(box.closed(Cause.ABORTED))
    new = {"uuid": "x", "v": 1}
    box.step(box.opened("T2", key="uuid"), box.batch(initial(new)), box.ready())
    assert box.sink.said()[2:] == [
        ("create", "resync", {"old_val": None, "new_val": new}),
        ("delete", "resync", {"old_val": {"id": "a"}, "new_val": None}),
        ("delete", "resync", {"old_val": {"id": "b"}, "new_val": None}),
    ]

    box.step(box.closed())
    box.step(box.opened("T2", key="uuid"), box.ready())
    assert box.sink.said()[-1] == (
        "delete",
        "resync",
        {"old_val": {"uuid": "x"}, "new_val": None},
    )
    again = box.restart()
    again.step(again.opened("T2", key="uuid"), again.batch(remove(new)), again.ready())
    assert again.sink.entries[-1].key == '"x"'
    again.close()


def test_counters_and_instants_of_a_feed_survive_a_restart(box: Outbox) -> None:
    snapshot(box, A1)
    ready_at = box.feed().ready_at
    box.step(box.batch(change(A1, A2)))
    changed_at = box.feed().changed_at
    box.step(box.closed(Cause.OVERFLOW, skipped=5))
    again = box.restart()

    for feed in (again.store.status.feeds[1], again.feed()):
        assert (feed.captured, feed.skipped) == (2, 5)
        assert (feed.ready_at, feed.changed_at) == (ready_at, changed_at)
    again.step(again.opened(), again.batch(initial(A2)))
    again.now += 5 * SECOND
    again.step(again.batch(initial(B1)))
    assert again.rows("SELECT captured, skipped, changed_at FROM feeds") == [(3, 5, changed_at)]
    again.close()


def test_two_tables_have_feeds_of_their_own(tmp_path: Path) -> None:
    names = [table()._replace(name=table().name._replace(table=name)) for name in ("t", "u")]
    with outbox(tmp_path, *names) as box:
        box.step(
            box.opened(),
            box.opened(feed_id=2),
            box.batch(initial(A1)),
            box.batch(initial(A1), feed_id=2),
            box.ready(feed_id=2),
        )

        assert [entry.feed_id for entry in box.sink.entries] == [1, 2]
        assert box.feed(1).state is FeedState.INITIALIZING
        assert box.feed(2).state is FeedState.READY
        assert set(box.store.names()) == {1, 2}


def test_ready_without_a_snapshot_is_our_own_mistake(box: Outbox) -> None:
    with pytest.raises(ValueError, match="without a snapshot"):
        box.step(box.ready())


def test_a_snapshot_read_late_does_not_say_that_the_feed_was_complete_until_then(
    tmp_path: Path,
) -> None:
    """Its ``ready`` waited in a socket; what came behind it died with the process."""
    with outbox(tmp_path) as box:
        box.step(box.opened())
        sent_at = box.now
        box.now += 60 * SECOND
        box.step(SnapshotRead(1, box.now, complete_at=sent_at))
        again = box.restart()
        again.step(again.opened())

        assert again.rows("SELECT cause, opened_at FROM gaps") == [("start", sent_at - SECOND)]
        again.close()
