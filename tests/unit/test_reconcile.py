"""What a batch of a changefeed means, case by case."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pytest

from replicator.domain.feed_element import Change, key_reader
from replicator.domain.index import DELETED, IndexChange, IndexDraft, RowIds
from replicator.domain.model import Known, Op, Origin
from replicator.domain.reconcile import (
    Draft,
    SnapshotRules,
    TableRules,
    deletes,
    digest,
    reconcile,
)
from tests.support.feed_elements import add, change, initial, raw, remove

READ_KEY = key_reader("id")
A1, A2, B1 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": "b", "v": 1}
FIRST = SnapshotRules(Origin.SNAPSHOT)
RESYNC = SnapshotRules(Origin.RESYNC)


def known(document: dict[str, object], row_id: int, *, is_kept: bool = False) -> Known:
    return Known(row_id, digest(raw(document)), bytes(raw(document)) if is_kept else None)


class Decided(NamedTuple):
    """What a batch means, and what it changes in the index."""

    drafts: Sequence[Draft]
    seen: Sequence[int]
    compared: int
    index: IndexChange
    next_row_id: int


def plan(
    *changes: Change,
    index: dict[str, Known] | None = None,
    snapshot: SnapshotRules | None = None,
    is_kept: bool = False,
) -> Decided:
    keys = [READ_KEY(each.old_val if each.type == "remove" else each.new_val) for each in changes]
    row_ids = RowIds(100)
    draft = IndexDraft(row_ids)
    draft.know(keys, {key: row for key, row in (index or {}).items() if key in keys})
    rules = TableRules("id", keep_documents=is_kept)
    found = reconcile(changes, keys, draft, rules=rules, snapshot=snapshot)
    return Decided(*found, draft.change(), row_ids.next_id)


def said(found: Decided) -> list[tuple[str, str, object]]:
    return [(d.op.value, d.origin.value, json.loads(d.body)) for d in found.drafts]


def test_a_live_change_is_published_with_both_values_and_indexed() -> None:
    found = plan(add(A1), change(A1, A2), add(B1), remove(B1))

    assert said(found) == [
        ("create", "feed", {"old_val": None, "new_val": A1}),
        ("update", "feed", {"old_val": A1, "new_val": A2}),
        ("create", "feed", {"old_val": None, "new_val": B1}),
        ("delete", "feed", {"old_val": B1, "new_val": None}),
    ]
    assert found.index.inserted == {'"a"': Known(100, digest(raw(A2)))}
    assert (found.index.updated, found.index.deleted, found.seen) == ({}, [], [])
    assert found.next_row_id == 102


def test_a_live_change_of_a_known_document_updates_its_row() -> None:
    found = plan(change(A1, A2), index={'"a"': known(A1, 5)})

    assert found.index.updated == {'"a"': Known(5, digest(raw(A2)))}
    assert not found.index.inserted


def test_a_live_delete_takes_the_row_out() -> None:
    found = plan(remove(A1), index={'"a"': known(A1, 5)})

    assert found.index.deleted == [5]
    assert not found.index.inserted
    assert not found.index.updated


def test_a_document_deleted_and_created_in_one_batch_gets_another_row() -> None:
    found = plan(remove(A1), add(A2), index={'"a"': known(A1, 5)}, snapshot=RESYNC)

    assert found.index.deleted == [5]
    assert found.index.inserted == {'"a"': Known(100, digest(raw(A2)))}
    assert found.seen == [100]


def test_a_delete_of_an_unknown_document_is_published_all_the_same() -> None:
    found = plan(remove(A1))

    assert [op for op, _, _ in said(found)] == ["delete"]
    assert not found.index.deleted


@pytest.mark.parametrize("nothing", [b"", b"null"])
def test_a_value_that_is_missing_and_one_that_is_null_are_null_in_the_body(nothing: bytes) -> None:
    missing = msgspec.Raw(nothing)

    created = plan(Change(missing, raw(A1), "add"))
    deleted = plan(Change(raw(A1), missing, "remove"), index={'"a"': known(A1, 5)})

    assert said(created) == [("create", "feed", {"old_val": None, "new_val": A1})]
    assert said(deleted) == [("delete", "feed", {"old_val": A1, "new_val": None})]


@pytest.mark.parametrize("rules", [FIRST, RESYNC])
def test_an_initial_value_that_is_known_and_equal_costs_nothing(rules: SnapshotRules) -> None:
    found = plan(initial(A1), index={'"a"': known(A1, 5)}, snapshot=rules)

    assert found == Decided([], [5], 1, IndexChange({}, {}, []), 100)


def test_an_unknown_initial_value_is_a_create_of_its_snapshots_origin() -> None:
    assert said(plan(initial(A1), snapshot=FIRST)) == [
        ("create", "snapshot", {"old_val": None, "new_val": A1})
    ]
    assert said(plan(initial(A1), snapshot=RESYNC)) == [
        ("create", "resync", {"old_val": None, "new_val": A1})
    ]


@pytest.mark.parametrize("rules", [FIRST, RESYNC])
def test_an_initial_value_that_differs_is_an_update_found_by_comparison(
    rules: SnapshotRules,
) -> None:
    found = plan(initial(A2), index={'"a"': known(A1, 5)}, snapshot=rules)

    assert said(found) == [("update", "resync", {"old_val": None, "new_val": A2})]
    assert found.index.updated == {'"a"': Known(5, digest(raw(A2)))}


def test_a_kept_document_is_the_old_value_of_an_update_found_by_comparison() -> None:
    found = plan(
        initial(A2), index={'"a"': known(A1, 5, is_kept=True)}, snapshot=RESYNC, is_kept=True
    )

    assert said(found) == [("update", "resync", {"old_val": A1, "new_val": A2})]
    assert found.index.updated == {'"a"': Known(5, digest(raw(A2)), bytes(raw(A2)))}


def test_documents_are_kept_from_then_on_when_it_is_asked_for_later() -> None:
    found = plan(initial(A1), index={'"a"': known(A1, 5)}, snapshot=RESYNC, is_kept=True)

    assert not found.drafts
    assert found.index.updated == {'"a"': known(A1, 5, is_kept=True)}


def test_live_changes_keep_documents_too_where_asked() -> None:
    found = plan(add(A1), is_kept=True)

    assert found.index.inserted == {'"a"': known(A1, 100, is_kept=True)}


def test_a_baseline_records_unknown_documents_and_publishes_none() -> None:
    found = plan(initial(A1), snapshot=SnapshotRules(Origin.SNAPSHOT, absorb_unknown=True))

    assert not found.drafts
    assert found.index.inserted == {'"a"': Known(100, digest(raw(A1)))}
    assert found.seen == [100]


def test_a_baseline_still_publishes_what_it_knew_and_finds_changed() -> None:
    found = plan(
        initial(A2),
        index={'"a"': known(A1, 5)},
        snapshot=SnapshotRules(Origin.SNAPSHOT, absorb_unknown=True),
    )

    assert [op for op, _, _ in said(found)] == ["update"]


def test_absorbing_changed_documents_publishes_only_unknown_ones() -> None:
    found = plan(
        initial(A2),
        initial(B1),
        index={'"a"': known(A1, 5)},
        snapshot=SnapshotRules(Origin.RESYNC, absorb_changed=True),
    )

    assert said(found) == [("create", "resync", {"old_val": None, "new_val": B1})]
    assert found.index.updated == {'"a"': Known(5, digest(raw(A2)))}


def test_a_live_create_during_a_snapshot_counts_as_seen() -> None:
    found = plan(add(A1), change(A1, A2), snapshot=RESYNC)

    assert set(found.seen) == {100}
    assert found.compared == 0


def test_an_initial_value_outside_a_snapshot_is_refused() -> None:
    with pytest.raises(ValueError, match="outside a snapshot"):
        plan(initial(A1))


def test_an_element_that_a_table_feed_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="'uninitial'"):
        plan(Change(new_val=raw(A1), type="uninitial"))


def test_documents_that_a_snapshot_did_not_see_are_deletes() -> None:
    rows = [('"b"', known(B1, 2)), ('"c"', Known(3, b"", b'{"id":"c","v":3}'))]

    drafts = deletes(rows, rules=TableRules("id"))

    assert [(d.key, d.op, d.origin) for d in drafts] == [
        ('"b"', Op.DELETE, Origin.RESYNC),
        ('"c"', Op.DELETE, Origin.RESYNC),
    ]
    assert [json.loads(d.body) for d in drafts] == [
        {"old_val": {"id": "b"}, "new_val": None},
        {"old_val": {"id": "c", "v": 3}, "new_val": None},
    ]


def test_a_row_that_only_says_deleted_is_not_a_delete_once_more() -> None:
    rows = [('"b"', Known(2, DELETED)), ('"c"', known(B1, 3))]

    assert [d.key for d in deletes(rows, rules=TableRules("id"))] == ['"c"']


def test_the_digest_is_over_the_servers_bytes() -> None:
    assert digest(msgspec.Raw(b'{"id":1}')) == digest(b'{"id":1}')
    assert len(digest(b"")) == 16
    assert digest(b'{"id":1}') != digest(b'{"id":1.5}')
