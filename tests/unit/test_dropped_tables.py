"""Tables that come and go while the store runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.domain.feed import Feed
from replicator.domain.feed_state import FeedState
from replicator.domain.items import TableDropped, TableFound
from replicator.domain.model import Cause, TableName
from replicator.store import store, sweep
from replicator.store.pausing import OutboxLimits
from tests.support.feed_elements import add, initial
from tests.support.outbox import TABLE, Outbox, outbox, table

LATER = TableName("db", "later")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    with outbox(tmp_path) as made:
        yield made


def found(box: Outbox, name: TableName = LATER, **options: Any) -> Feed:
    """Let a table be found; return the feed that its reader is made for."""
    told: list[Feed] = []
    box.store.connect(box.sink, told.append)
    box.step(TableFound(table(name)._replace(**options), box.now))
    assert [feed.name for feed in told] == [name]
    return told[0]


def load(box: Outbox, many: int, feed_id: int = 1, table_id: str = "T1") -> None:
    documents = [initial({"id": f"{number:03d}"}) for number in range(many)]
    box.step(
        box.opened(table_id, feed_id=feed_id),
        box.batch(*documents, feed_id=feed_id),
        box.ready(feed_id),
    )
    while box.feed(feed_id).state is not FeedState.READY:
        box.step()


def drop(box: Outbox, name: TableName = TABLE, feed_id: int = 1) -> None:
    box.step(box.closed(Cause.ABORTED, "table dropped", feed_id=feed_id))
    box.step(TableDropped(name, box.now))
    while any(feed.name == name for feed in box.store.status.feeds.values()):
        box.step()


def test_a_table_that_is_found_gets_a_feed_and_is_replicated(box: Outbox) -> None:
    feed = found(box)
    box.step(box.opened(feed_id=feed.id), box.batch(add({"id": 1}), feed_id=feed.id))
    box.step(box.ready(feed.id))

    assert feed.id != 1
    assert box.feed(feed.id).state is FeedState.READY
    assert [entry.feed_id for entry in box.sink.entries] == [feed.id]
    assert box.store.names()[feed.id] == LATER
    assert box.value("replicator_feed_state", table="db.later", state="ready") == 1


def test_a_table_that_is_found_twice_has_one_feed(box: Outbox) -> None:
    assert found(box).id == found(box).id
    assert len(box.store.status.feeds) == 2


def test_a_table_that_is_found_again_shows_the_state_that_its_feed_is_in(box: Outbox) -> None:
    load(box, 1)
    found(box, TABLE)

    assert box.feed(1).state is FeedState.READY
    assert box.value("replicator_feed_state", table="db.t", state="ready") == 1
    assert box.value("replicator_feed_state", table="db.t", state="lost") == 0


def test_the_options_of_a_table_that_is_found_hold(box: Outbox) -> None:
    feed = found(box, envelope="cloudevents", is_baseline=True)
    box.step(box.opened(feed_id=feed.id), box.batch(initial({"id": 1}), feed_id=feed.id))
    assert box.sink.entries == []
    box.step(box.batch(add({"id": 2}), feed_id=feed.id))

    (event,) = [json.loads(entry.body) for entry in box.sink.entries]
    assert (event["id"], event["source"]) == (f"{box.store.outbox_id}-1", "/rethinkdb/db/later")
    assert event["data"]["new_val"] == {"id": 2}


def test_a_dropped_table_s_documents_are_deletes_and_its_feed_is_closed(box: Outbox) -> None:
    load(box, 25)
    drop(box)

    deletes = box.sink.said()[25:]
    assert [(op, origin) for op, origin, _ in deletes] == [("delete", "resync")] * 25
    assert {body["old_val"]["id"] for _, _, body in deletes} == {f"{n:03d}" for n in range(25)}
    assert all(body["new_val"] is None for _, _, body in deletes)
    assert box.rows("SELECT count(*) FROM documents") == [(0,)]
    assert box.rows("SELECT state, opened_at, table_id FROM feeds") == [("dropped", None, None)]
    assert box.store.status.feeds == {}
    assert box.rows("SELECT cause, deleted, closed_at IS NULL FROM gaps") == [("aborted", 25, 0)]
    assert box.value("replicator_feed_state", table="db.t", state="lost") is None
    assert box.value("replicator_resync_repairs_total", table="db.t", op="delete") == 25


def test_a_drop_whose_feed_was_closed_in_order_has_its_gap_too(box: Outbox) -> None:
    load(box, 1)  # a table that is renamed is not aborted by RethinkDB
    box.step(box.closed(Cause.START, ""))
    box.step(TableDropped(TABLE, box.now))

    assert box.rows("SELECT cause, deleted FROM gaps") == [("aborted", 1)]


def test_a_table_that_is_created_again_is_a_new_feed_of_the_same_name(box: Outbox) -> None:
    load(box, 2)
    drop(box)
    before = len(box.sink.entries)
    feed = found(box, TABLE)
    load(box, 1, feed.id, "T2")

    assert [entry[:2] for entry in box.sink.said()[before:]] == [("create", "snapshot")]
    assert len(box.rows("SELECT id FROM gaps")) == 1  # of the drop, none of the new feed
    assert box.value("replicator_feed_state", table="db.t", state="ready") == 1


def test_a_table_created_again_while_its_deletes_are_looked_for_is_compared(box: Outbox) -> None:
    load(box, 25)
    box.step(box.closed(Cause.ABORTED, "table dropped"))
    box.step(TableDropped(TABLE, box.now))
    box.step()
    box.step()  # and the first ten deletes
    assert len(box.sink.entries) == 35
    feed = found(box, TABLE)
    assert not box.feed(feed.id).is_dropped
    load(box, 1, feed.id, "T2")

    states: dict[str, str] = {}
    for op, _, body in box.sink.said():
        states[(body["new_val"] or body["old_val"])["id"]] = op
    assert [key for key, op in states.items() if op != "delete"] == ["000"]
    assert box.rows("SELECT count(*) FROM documents") == [(1,)]


def test_a_drop_that_a_crash_interrupted_is_done_again(box: Outbox) -> None:
    load(box, 25)
    box.step(box.closed(Cause.ABORTED, "table dropped"))
    box.step(TableDropped(TABLE, box.now))
    box.step()
    box.step()
    done = len(box.sink.entries) - 25
    assert 0 < done < 25
    later = box.restart()
    try:
        assert later.store.not_dropped(["db"]) == [TABLE]
        later.step(TableDropped(TABLE, later.now))
        while later.store.status.feeds:
            later.step()
        pending = later.rows("SELECT key FROM entries WHERE op = 'delete'")
        assert len(pending) == len(set(pending)) == 25
        assert later.store.not_dropped(["db"]) == []
        assert later.store.not_dropped(["other"]) == []
        assert later.rows("SELECT deleted, closed_at IS NULL FROM gaps") == [(25, 0)]
    finally:
        later.close()


def test_a_table_dropped_while_nothing_ran_has_a_gap_since_the_last_sign_of_life(
    box: Outbox,
) -> None:
    load(box, 1)
    alive_at = box.feed().alive_at
    later = box.restart()
    try:
        later.step(TableDropped(TABLE, later.now))
        ((cause, opened_at, deleted),) = later.rows("SELECT cause, opened_at, deleted FROM gaps")
        assert (cause, deleted) == ("start", 1)
        assert alive_at is not None
        assert opened_at <= alive_at
    finally:
        later.close()


def test_the_deletes_of_a_dropped_table_wait_while_the_outbox_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_SWEEP_ROWS", 10)
    with outbox(tmp_path, limits=OutboxLimits(30, 1 << 40)) as box:
        load(box, 25)
        box.step(box.closed(Cause.ABORTED, "table dropped"))
        box.step(TableDropped(TABLE, box.now))
        box.step()
        box.step()  # all are counted; ten more: it is full
        assert box.store.status.is_full
        for _ in range(3):
            box.step()
        assert len(box.sink.entries) == 35
        box.settle(*box.sink.entries)
        while box.store.status.feeds:
            box.step()
        assert len(box.sink.entries) == 50


def test_a_drop_of_what_has_no_feed_is_nothing(box: Outbox) -> None:
    box.step(TableDropped(LATER, box.now))

    assert len(box.store.status.feeds) == 1
    assert box.rows("SELECT count(*) FROM gaps") == [(0,)]


def series(box: Outbox, name: TableName = TABLE) -> str:
    return "\n".join(
        line for line in box.metrics.render().decode().splitlines() if f'table="{name}"' in line
    )


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CHECK_EVERY_SECONDS", 0.0)


def test_the_series_of_a_dropped_table_go_with_its_last_entry(box: Outbox, watchful: None) -> None:
    del watchful
    load(box, 3)
    drop(box)
    box.step()
    box.step()
    assert 'op="delete"' in series(box), "its deletes are not confirmed yet"
    box.settle(*box.sink.entries)
    box.step()
    box.step()

    assert series(box) == ""


def test_the_series_of_a_dropped_table_go_when_its_last_entries_were_discarded(
    box: Outbox, watchful: None
) -> None:
    del watchful
    load(box, 3)
    drop(box)
    with box.engine.begin() as other:
        other.exec_driver_sql("DELETE FROM entries")
    for _ in range(3):
        box.step()

    assert series(box) == ""


def test_the_series_of_a_table_that_comes_back_stay(box: Outbox, watchful: None) -> None:
    del watchful
    load(box, 3)
    drop(box)
    box.settle(*box.sink.entries)
    found(box, TABLE)
    box.step()
    box.step()

    assert box.value("replicator_feed_state", table="db.t", state="lost") == 1
    assert box.value("replicator_snapshot_documents_total", table="db.t") is not None
