"""The document index: look-ups, and the rows that a snapshot has not seen."""

import json
import math
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.domain.index import DELETED, IndexChange
from replicator.domain.model import Known
from replicator.errors import OutboxUnusable
from replicator.outbox.port import Outbox, Search, Step
from tests.outbox.conformance.databases import Database
from tests.outbox.conformance.steps import DIGEST, OTHER, inserted, search

OTHERS = {f'"{n:04d}"': Known(2000 + n, b"o" * 16) for n in range(900, 1100)}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def keys_of(texts: list[str]) -> list[str]:
    """Return keys as a feed has them: JSON, with every character that can stand as it is."""
    return [json.dumps(text, ensure_ascii=False) for text in texts]


def without_documents(rows: Mapping[str, Known]) -> dict[str, Known]:
    return {key: msgspec.structs.replace(row, document=None) for key, row in rows.items()}


# Look-ups.


@pytest.mark.parametrize("with_documents", [True, False])
@pytest.mark.parametrize("is_in_order", [True, False])
def test_rows_are_found_by_their_keys(
    outbox: Outbox, *, with_documents: bool, is_in_order: bool
) -> None:
    texts = ["", "a", "é\U0001f600", "a\x7fb", "\u2028", "\ufffe", 'quote"', "back\\", "nul\x00"]
    keys = [*keys_of(texts), "1", "-1.5e-7", "[1,2]"]
    rows = {key: Known(n, bytes([n]) * 16, b"{}") for n, key in enumerate(keys, 1)}
    outbox.commit(inserted(rows))

    def look_up(feed_id: int, wanted: list[str]) -> dict[str, Known]:
        return outbox.look_up(
            feed_id, wanted, with_documents=with_documents, is_in_order=is_in_order
        )

    expected = rows if with_documents else without_documents(rows)
    assert look_up(1, [*keys, *keys, '"unknown"']) == expected
    assert look_up(2, keys) == {}
    assert look_up(1, ['"unknown"']) == {}
    assert look_up(1, []) == {}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXTS, unique=True),
    asked=st.integers(min_value=0),
    unknown=st.lists(TEXTS, max_size=3),
)
def test_any_key_survives_the_way_into_the_index_and_the_look_up(
    database: Database, outbox: Outbox, texts: list[str], asked: int, unknown: list[str]
) -> None:
    with database.other() as connection:
        connection.exec_driver_sql("DELETE FROM documents")
    rows = {key: Known(n, DIGEST) for n, key in enumerate(keys_of(texts), 1)}
    outbox.commit(inserted(rows))
    wanted = {key: row for key, row in rows.items() if asked >> row.row_id & 1}
    asked_for = [*wanted, *keys_of(unknown)]
    known = {key: row for key, row in rows.items() if key in asked_for}

    found = outbox.look_up(1, asked_for, with_documents=False, is_in_order=False)
    assert {key: row for key, row in found.items() if key in asked_for} == known
    along = outbox.look_up(1, asked_for, with_documents=False, is_in_order=True)
    assert {key: row for key, row in along.items() if key in asked_for} == known
    # What is read along, too, is only what is there.
    assert found.items() | along.items() <= rows.items()


@pytest.mark.parametrize("step", [1, 2, 5, 90])
def test_neighbours_may_be_read_along_but_those_of_other_feeds_are_not(
    outbox: Outbox, step: int
) -> None:
    rows = {f'"{n:04d}"': Known(n, DIGEST) for n in range(1, 1001)}
    outbox.commit(inserted(rows))
    outbox.commit(inserted(OTHERS, outbox.register(OTHER, "{}").row.id))
    wanted = list(rows)[990:5:-step]
    found = outbox.look_up(1, wanted, with_documents=False, is_in_order=True)

    assert set(wanted) <= set(found)
    assert found == {key: rows[key] for key in found}


def test_a_look_up_has_the_last_committed_state(outbox: Outbox) -> None:
    outbox.commit(inserted({"1": Known(1, DIGEST, b"old"), "2": Known(2, DIGEST)}))
    change = IndexChange(updated={"1": Known(1, b"e" * 16, b"new")}, deleted=[2])
    outbox.commit(Step(index_changes={1: change}))

    found = outbox.look_up(1, ["1", "2"], with_documents=True, is_in_order=False)
    assert found == {"1": Known(1, b"e" * 16, b"new")}


def test_a_kept_document_that_is_none_is_not_published(database: Database, outbox: Outbox) -> None:
    outbox.commit(inserted({"1": Known(1, DIGEST, b"{}")}))
    database.damage("UPDATE documents SET document = 7")

    with pytest.raises(OutboxUnusable, match="documents, row 1"):
        outbox.look_up(1, ["1"], with_documents=True, is_in_order=False)
    with pytest.raises(OutboxUnusable, match="documents, row 1"):
        outbox.unseen(search())


# Rows that were not seen.


def all_unseen(outbox: Outbox, first: Search) -> tuple[dict[str, Known], list[int]]:
    """Look at page after page; returns the rows, and how many each page had."""
    found: dict[str, Known] = {}
    lengths = []
    start: str | None = ""
    while start is not None:
        page = outbox.unseen(first._replace(start=start))
        assert not set(page.rows) & set(found), "each row comes once"
        assert all(key >= start for key in page.rows)
        found |= page.rows
        lengths.append(len(page.rows))
        start = page.next_start
    return found, lengths


@pytest.mark.parametrize("many", [0, 1, 9, 10, 11, 25, 30])
@pytest.mark.parametrize("with_values", [True, False])
def test_pages_show_what_was_not_seen_in_the_order_of_keys(
    outbox: Outbox, many: int, *, with_values: bool
) -> None:
    rows = {f'"{n:02d}"': Known(100 - n, DIGEST, b"{}") for n in range(many)}
    outbox.commit(inserted(rows))
    outbox.commit(inserted(OTHERS, outbox.register(OTHER, "{}").row.id))
    unseen = {key: row for n, (key, row) in enumerate(rows.items()) if n not in (3, 10)}
    if not with_values:
        unseen = {key: Known(row.row_id, b"", None) for key, row in unseen.items()}
    found, lengths = all_unseen(outbox, search(seen=[97, 90], with_values=with_values))

    assert list(found.items()) == list(unseen.items())
    assert len(lengths) == max(1, math.ceil(many / 10))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXTS, unique=True, max_size=12),
    seen=st.sets(st.integers(1, 12)),
    max_rows=st.integers(1, 13),
)
def test_pages_of_any_keys_have_each_unseen_row_once(
    database: Database, outbox: Outbox, texts: list[str], seen: set[int], max_rows: int
) -> None:
    with database.other() as connection:
        connection.exec_driver_sql("DELETE FROM documents")
    rows = {key: Known(n, DIGEST) for n, key in enumerate(keys_of(texts), 1)}
    outbox.commit(inserted(rows))
    found, lengths = all_unseen(outbox, search(seen=list(seen), max_rows=max_rows))

    assert found == {key: row for key, row in rows.items() if row.row_id not in seen}
    assert list(found) == sorted(found)
    assert max(lengths) <= max_rows


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXTS, unique=True, max_size=12),
    seen=st.sets(st.integers(1, 12)),
    deleted=st.sets(st.integers(1, 12)),
    first_new_row=st.integers(1, 13),
    max_rows=st.integers(1, 13),
)
def test_counting_pages_of_any_keys_counts_each_row_once(
    database: Database,
    outbox: Outbox,
    texts: list[str],
    seen: set[int],
    deleted: set[int],
    first_new_row: int,
    max_rows: int,
) -> None:
    with database.other() as connection:
        connection.exec_driver_sql("DELETE FROM documents")
    rows = {
        key: Known(n, DELETED if n in deleted else DIGEST)
        for n, key in enumerate(keys_of(texts), 1)
    }
    outbox.commit(inserted(rows))
    outbox.commit(inserted(OTHERS, outbox.register(OTHER, "{}").row.id))
    keys: list[str] = []
    documents = 0
    start: str | None = ""
    while start is not None:
        page = outbox.count_unseen(search(start, seen=list(seen), max_rows=max_rows), first_new_row)
        keys += page.keys
        documents += page.documents
        start = page.next_start

    assert keys == sorted(k for k, row in rows.items() if row.row_id not in seen | deleted)
    assert documents == sum(row.row_id < first_new_row for row in rows.values())


def test_a_page_with_values_ends_before_the_document_that_exceeds_its_bytes(
    outbox: Outbox,
) -> None:
    sizes = [10, 10, 100, 10, 10, 10]
    rows = {f'"{n}"': Known(n, DIGEST, b"x" * size) for n, size in enumerate(sizes)}
    outbox.commit(inserted(rows))
    found, lengths = all_unseen(outbox, search(seen=[3], max_bytes=25))

    assert list(found) == ['"0"', '"1"', '"2"', '"4"', '"5"']
    assert found == {key: rows[key] for key in found}
    assert lengths == [2, 1, 2], "one always comes"
    assert all_unseen(outbox, search(max_bytes=1, with_values=False))[1] == [6]


def test_a_key_that_is_not_json_is_not_published(database: Database, outbox: Outbox) -> None:
    outbox.commit(inserted({"1": Known(1, DIGEST)}))
    database.damage("UPDATE documents SET key = 'not JSON'")

    with pytest.raises(OutboxUnusable, match="not JSON"):
        outbox.unseen(search())
    with pytest.raises(OutboxUnusable, match="not JSON"):
        outbox.count_unseen(search(), 2)
