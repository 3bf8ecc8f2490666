"""Numbers that follow each other, as ranges."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.ranges import runs


@given(numbers=st.lists(st.integers(1, 60)))
def test_runs_hold_every_number_and_no_other(numbers: list[int]) -> None:
    ranges = list(runs(numbers))

    covered = [number for first, last in ranges for number in range(first, last + 1)]
    assert sorted(set(numbers)) == sorted(set(covered))
    has_joined_runs = all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))
    assert has_joined_runs or len(numbers) != len(set(numbers))
