"""The document index while a step is decided, against a dictionary that is changed at once."""

from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.index import IndexChange, IndexDraft, RowIds
from replicator.domain.model import Known

KEYS = st.sampled_from(["a", "b", "c", "d"])
DIGESTS = st.sampled_from([b"1" * 16, b"2" * 16])
PUTS = st.tuples(KEYS, DIGESTS)
REMOVALS = st.tuples(KEYS, st.none())
BATCHES = st.lists(st.lists(PUTS | REMOVALS, max_size=6), max_size=4)


def draft_of(rows: dict[str, Known], *, next_id: int = 100) -> IndexDraft:
    draft = IndexDraft(RowIds(next_id))
    draft.know(list("abcd"), rows)
    return draft


def applied(rows: dict[str, Known], change: IndexChange) -> dict[str, Known]:
    """Return the index after a change, as a database makes it: deletes come first."""
    left = {key: row for key, row in rows.items() if row.row_id not in change.deleted}
    assert len(left) == len(rows) - len(change.deleted), "only rows that are there are deleted"
    assert not set(left) & set(change.inserted), "a key has one row"
    for key, row in change.updated.items():
        assert left[key].row_id == row.row_id
    return left | change.inserted | change.updated


@given(before=st.dictionaries(KEYS, DIGESTS), batches=BATCHES)
def test_a_step_of_several_batches_changes_the_index_as_one_after_the_other_would(
    before: dict[str, bytes], batches: list[list[tuple[str, bytes | None]]]
) -> None:
    rows = {key: Known(n, digest) for n, (key, digest) in enumerate(before.items(), 1)}
    row_ids = RowIds(100)
    draft = IndexDraft(row_ids)
    expected = dict(rows)
    taken: set[int] = set()
    for batch in batches:
        unknown = draft.unknown(key for key, _ in batch)
        draft.know(unknown, {key: row for key, row in rows.items() if key in unknown})
        for key, digest in batch:
            assert draft.get(key) == expected.get(key)
            if digest is None:
                draft.remove(key)
                expected.pop(key, None)
                continue
            expected[key] = draft.put(key, digest, None)
            assert expected[key].digest == digest
            taken.add(expected[key].row_id)

    change = draft.change()
    assert applied(rows, change) == expected
    assert all(row.row_id >= 100 for row in change.inserted.values())
    assert row_ids.next_id == max([99, *taken]) + 1
    assert not change.forgets_deleted


def test_each_key_is_asked_for_once_even_where_it_has_no_row() -> None:
    draft = IndexDraft(RowIds(1))
    assert draft.unknown(["b", "a", "b"]) == ["b", "a"]
    draft.know(["b", "a"], {"a": Known(1, b"")})

    assert draft.unknown(["a", "c", "b"]) == ["c"]
    assert draft.get("b") is None


def test_a_row_that_was_read_along_needs_no_look_up_and_does_not_undo_a_change() -> None:
    rows = {"a": Known(1, b"1"), "b": Known(2, b"2")}
    draft = IndexDraft(RowIds(3))
    draft.know(["a"], {"a": rows["a"]})
    changed = draft.put("a", b"9", None)
    draft.know(["b"], rows)

    assert draft.unknown(["a", "b"]) == []
    assert draft.get("a") == changed
    assert draft.change() == IndexChange({}, {"a": Known(1, b"9")}, [])


def test_a_document_that_comes_and_goes_within_a_step_leaves_nothing_to_write() -> None:
    draft = draft_of({})
    draft.put("a", b"1", None)
    draft.remove("a")
    draft.remove("b")

    assert draft.change() == IndexChange({}, {}, [])


def test_a_row_whose_document_was_made_again_is_another_row() -> None:
    """A snapshot that has seen the old row has not seen the new one."""
    draft = draft_of({"a": Known(1, b"1")})
    draft.remove("a")
    again = draft.put("a", b"1", None)

    assert again.row_id == 100
    assert draft.change() == IndexChange({"a": again}, {}, [1])


def test_the_rows_of_two_feeds_have_their_ids_from_one_place() -> None:
    row_ids = RowIds(7)
    first, second = IndexDraft(row_ids), IndexDraft(row_ids)

    assert [first.put("a", b"", None).row_id, second.put("a", b"", None).row_id] == [7, 8]
    assert row_ids.next_id == 9


def test_a_change_says_when_rows_that_only_say_deleted_are_to_go() -> None:
    draft = draft_of({})
    draft.forgets_deleted = True

    assert draft.change().forgets_deleted
