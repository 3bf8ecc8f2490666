"""The bitmap of the rows that a snapshot has seen."""

from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.seen_rows import SeenRows

ROW_IDS = st.integers(1, 40_000) | st.integers(1, 2**62)


@given(added=st.lists(ROW_IDS), asked=st.lists(ROW_IDS))
def test_it_holds_what_was_added_and_nothing_else(added: list[int], asked: list[int]) -> None:
    seen = SeenRows()
    for row_id in added:
        seen.add(row_id)

    for row_id in [*added, *asked]:
        assert (row_id in seen) is (row_id in set(added))
    assert seen.missing([*added, *asked]) == [row_id for row_id in asked if row_id not in added]


def pages_of(seen: SeenRows) -> int:
    """Return the bytes that the pages take."""
    return sum(map(len, seen._pages.values()))


def test_ten_million_dense_rows_take_a_megabyte_and_a_quarter() -> None:
    seen = SeenRows()
    for row_id in range(0, 10_000_000, 8192):
        seen.add(row_id)

    assert pages_of(seen) <= 1_260_000


def test_pages_exist_only_where_rows_are() -> None:
    seen = SeenRows()
    seen.add(10**15)

    assert pages_of(seen) == 1024
