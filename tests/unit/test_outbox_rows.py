"""Rows of the outbox and of the document index."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from replicator.domain.model import Cause, Entry, Failure, Known, Op, Origin, TableName
from replicator.domain.reconcile import Plan
from replicator.domain.seen_rows import SeenRows
from replicator.outbox.migrations import upgrade
from replicator.outbox.sqlite import entries, feeds, index
from replicator.outbox.sqlite.connection import open_engine

NAME = TableName("db", "t")
OTHER = TableName("db", "other")
OTHERS = {f'"{n:04d}"': Known(2000 + n, b"o" * 16) for n in range(900, 1100)}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = open_engine(f"sqlite:///{tmp_path}/outbox.db", create=True)
    upgrade(engine)
    with engine.begin() as opened:
        feeds.register(opened, NAME, "{}")
        yield opened


def entry(number: int, body: bytes = b"{}") -> Entry:
    return Entry(number, 1, f'"{number}"', Op.UPDATE, Origin.RESYNC, body, number * 10)


def inserted(rows: dict[str, Known]) -> Plan:
    return Plan([], rows, {}, [], [], 0, 0)


# Entries.


@given(numbers=st.lists(st.integers(1, 60)))
def test_runs_hold_every_number_and_no_other(numbers: list[int]) -> None:
    ranges = list(entries.runs(numbers))

    covered = [number for first, last in ranges for number in range(first, last + 1)]
    assert sorted(set(numbers)) == sorted(set(covered))
    has_joined_runs = all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))
    assert has_joined_runs or len(numbers) != len(set(numbers))


def test_what_is_settled_is_gone_and_nothing_else(connection: Connection) -> None:
    entries.append(connection, [entry(number) for number in range(1, 11)])
    entries.settle(connection, [9, 2, 3, 4, 7])
    entries.settle(connection, [])
    entries.settle(connection, [2])

    page = entries.page(connection, after=0, most=100, most_bytes=10**6)
    assert [each.number for each in page.entries] == [1, 5, 6, 8, 10]


def test_a_page_is_read_back_as_it_was_written(connection: Connection) -> None:
    written = [entry(1, b"\x00\xff"), entry(2), entry(3)]
    entries.append(connection, written)

    assert entries.page(connection, after=0, most=10, most_bytes=100) == (written, True)
    assert entries.page(connection, after=1, most=2, most_bytes=100) == (written[1:], False)
    assert entries.page(connection, after=3, most=2, most_bytes=100) == ([], True)


def test_a_page_ends_after_the_entry_that_goes_over_its_bytes(connection: Connection) -> None:
    entries.append(connection, [entry(1, b"x" * 50), entry(2, b"x" * 60), entry(3)])

    page = entries.page(connection, after=0, most=10, most_bytes=100)
    assert [each.number for each in page.entries] == [1, 2]
    assert not page.is_last
    page = entries.page(connection, after=0, most=10, most_bytes=1)
    assert [each.number for each in page.entries] == [1]


def test_parked_entries_are_counted_and_not_read_back(connection: Connection) -> None:
    entries.append(connection, [entry(1), entry(2, b"xyz"), entry(3)])
    entries.park(connection, [Failure(1, "too_large", "16 MiB")])
    entries.record_failures(connection, [Failure(2, "nacked", "no", 3)])
    entries.park(connection, [])
    entries.record_failures(connection, [])

    page = entries.page(connection, after=0, most=10, most_bytes=100)
    assert [each.number for each in page.entries] == [2, 3]
    assert entries.totals(connection) == (2, 1, 7, 20)
    assert entries.oldest_pending(connection, 0) == (2, 20)
    assert entries.oldest_pending(connection, 3) == (3, 30)


def test_an_empty_outbox_has_no_oldest_entry(connection: Connection) -> None:
    entries.append(connection, [])

    assert entries.totals(connection) == (0, 0, 0, None)
    assert entries.oldest_pending(connection, 0) is None


# The index.


@pytest.mark.parametrize("is_kept", [True, False])
def test_rows_are_found_by_their_keys(connection: Connection, *, is_kept: bool) -> None:
    texts = ["", "a", "é\U0001f600", "a\x7fb", "\u2028", "\ufffe", 'quote"', "back\\", "nul\x00"]
    keys = [json.dumps(text, ensure_ascii=False) for text in texts] + ["1", "-1.5e-7", "[1,2]"]
    rows = {key: Known(n, bytes([n]) * 16, b"{}") for n, key in enumerate(keys, 1)}
    index.apply(connection, 1, inserted(rows))

    found = index.lookup(connection, 1, [*keys, *keys, '"unknown"'], with_documents=is_kept)

    assert found == {
        key: row if is_kept else msgspec.structs.replace(row, document=None)
        for key, row in rows.items()
    }
    assert index.lookup(connection, 2, keys, with_documents=is_kept) == {}
    assert index.count(connection, 1) == len(keys)


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True),
    asked=st.integers(min_value=0),
)
def test_any_key_survives_the_way_into_the_lookup(texts: list[str], asked: int) -> None:
    engine = open_memory()
    rows = {
        json.dumps(text, ensure_ascii=False): Known(n, b"d" * 16) for n, text in enumerate(texts, 1)
    }
    wanted = {key: row for key, row in rows.items() if asked >> row.row_id & 1}
    with engine.begin() as opened:
        index.apply(opened, 1, inserted(rows))
        assert index.lookup(opened, 1, list(wanted), with_documents=False) == wanted
        along = index.lookup(opened, 1, list(wanted), with_documents=False, is_in_order=True)
    assert {key: row for key, row in along.items() if key in wanted} == wanted
    # Never more than are read along in the worst case, and only what is there.
    assert len(along) <= 2 * len(wanted)
    assert along.items() <= rows.items()
    engine.dispose()


def test_neighbours_are_read_along_and_strangers_searched_for(connection: Connection) -> None:
    rows = {f'"{n:04d}"': Known(n, b"d" * 16, b"{}") for n in range(1, 1001)}
    keys = list(rows)
    index.apply(connection, 1, inserted(rows))
    index.apply(connection, feeds.register(connection, OTHER, "{}")[0].id, inserted(OTHERS))

    def found(wanted: list[str], *, is_kept: bool = False) -> list[str]:
        seen = index.lookup(connection, 1, wanted, with_documents=is_kept, is_in_order=True)
        document = b"{}" if is_kept else None
        assert seen == {key: msgspec.structs.replace(rows[key], document=document) for key in seen}
        return sorted(seen)

    assert found(keys[500:100:-2]) == keys[102:501]  # every second: those between come along
    assert found(keys[500:100:-2], is_kept=True) == keys[102:501:2]  # they may be large
    assert found([*keys[0:500:5], '"0001a"']) == keys[0:500:5]
    assert found(keys[990:]) == keys[990:]  # nothing is behind the last
    assert found(['"a"', '"b"']) == []
    assert found([]) == []


def test_a_key_that_is_no_text_is_no_neighbour(connection: Connection) -> None:
    rows = {'"a"': Known(1, b"d" * 16), '"c"': Known(2, b"d" * 16)}
    index.apply(connection, 1, inserted(rows))
    for row_id in range(3, 8):
        values = (row_id, 1, b"%d" % row_id, b"d" * 16)
        text = "INSERT INTO documents (id, feed_id, key, digest) VALUES (?, ?, ?, ?)"
        connection.exec_driver_sql(text, values)

    assert index.lookup(connection, 1, list(rows), with_documents=False, is_in_order=True) == rows


def open_memory():  # noqa: ANN201 -- a bare engine, made fresh for each example
    from sqlalchemy import create_engine

    from replicator.outbox.schema import metadata

    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    return engine


@pytest.mark.parametrize("many", [0, 1, 9, 10, 11, 25, 30])
@pytest.mark.parametrize("with_values", [True, False])
def test_pages_show_what_was_not_seen_in_the_order_of_keys(
    connection: Connection, many: int, *, with_values: bool
) -> None:
    rows = {f'"{n:02d}"': Known(100 - n, b"d" * 16, b"{}") for n in range(many)}
    index.apply(connection, 1, inserted(rows))
    index.apply(connection, feeds.register(connection, OTHER, "{}")[0].id, inserted(OTHERS))
    seen = SeenRows()
    seen.add(100 - 3)
    seen.add(100 - 10)
    unseen = {key: row for n, (key, row) in enumerate(rows.items()) if n not in (3, 10)}
    if not with_values:
        unseen = {key: Known(row.row_id, b"", None) for key, row in unseen.items()}

    found: dict[str, Known] = {}
    start: str | None = ""
    pages = 0
    while start is not None:
        page = index.unseen(
            connection, 1, seen, start=start, most=10, most_bytes=10**6, with_values=with_values
        )
        found |= page.rows
        start = page.next_start
        pages += 1

    assert list(found.items()) == list(unseen.items())
    assert pages == max(1, math.ceil(many / 10))


def test_a_plan_is_applied_whole(connection: Connection) -> None:
    index.apply(connection, 1, inserted({"1": Known(1, b"a" * 16), "2": Known(2, b"b" * 16)}))
    plan = Plan([], {"1": Known(3, b"c" * 16)}, {"2": Known(2, b"e" * 16, b"{}")}, [1], [], 4, 0)
    index.apply(connection, 1, plan)

    assert index.lookup(connection, 1, ["1", "2"], with_documents=True) == {
        "1": Known(3, b"c" * 16),
        "2": Known(2, b"e" * 16, b"{}"),
    }
    assert index.next_row_id(connection) == 4


def test_an_empty_index_starts_with_row_one(connection: Connection) -> None:
    index.remove(connection, [])

    assert index.next_row_id(connection) == 1


# Feeds and gaps.


def test_a_feed_is_registered_once(connection: Connection) -> None:
    row, is_new = feeds.register(connection, NAME, "other")
    assert not is_new
    assert (row.name, row.projection) == (NAME, "{}")

    other, is_new = feeds.register(connection, TableName("db", "u"), "{}")
    assert is_new
    assert feeds.names(connection) == {row.id: NAME, other.id: TableName("db", "u")}


def test_a_registered_feed_is_lost_until_it_is_opened(connection: Connection) -> None:
    feeds.save(connection, 1, state="ready")
    feeds.register(connection, NAME, "{}")

    assert connection.exec_driver_sql("SELECT state FROM feeds").scalar() == "lost"


def test_a_gap_is_opened_counted_and_closed(connection: Connection) -> None:
    assert feeds.open_gap(connection, 1) is None
    gap = feeds.record_gap(connection, 1, Cause.OVERFLOW, 5)
    assert feeds.open_gap(connection, 1) == gap
    feeds.add_to_gap(connection, gap.id, created=2, deleted=0)
    feeds.add_to_gap(connection, gap.id, created=1, skipped=7)
    feeds.add_to_gap(connection, gap.id)

    assert tuple(feeds.close_gap(connection, gap.id, 9)) == (3, 0, 0)
    assert feeds.open_gap(connection, 1) is None
