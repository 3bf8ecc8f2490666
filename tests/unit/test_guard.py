"""The decision of the guard against mass deletion."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.config.values import parse_delete_guard
from replicator.domain.guard import DEFAULT_LIMIT, DeleteLimit, Guard, Missing, held_back

COUNTS = st.integers(0, 10_000)
LIMITS = st.none() | st.builds(
    DeleteLimit, COUNTS, st.fractions(0, 1, max_denominator=100) | st.just(Fraction(0))
)


def is_held(deletes: int, documents: int, limit: DeleteLimit | None = DEFAULT_LIMIT) -> bool:
    return held_back(limit, Missing(deletes, documents), None, table_id="T", at=1) is not None


@pytest.mark.parametrize(
    ("deletes", "documents", "expected"),
    [
        (1000, 1000, False),  # up to 1,000, whatever their share
        (1001, 1001, True),
        (1001, 5005, False),  # a fifth, exactly
        (1002, 5005, True),
        (2000, 10_000, False),
        (2001, 10_000, True),
        (0, 0, False),
    ],
)
def test_the_default_is_more_than_1000_documents_and_more_than_a_fifth(
    deletes: int, documents: int, *, expected: bool
) -> None:
    assert is_held(deletes, documents) is expected


@pytest.mark.parametrize(
    ("given", "deletes", "documents", "expected"),
    [
        ("12.5%", 1251, 10_000, True),
        ("12.5%", 1250, 10_000, False),
        ("0%", 1001, 1_000_000, True),
        ("0 %", 1000, 1_000_000, False),
        ("5000", 5000, 5000, False),
        (5000, 5001, 1_000_000, True),
        (0, 1, 1_000_000, True),
        ("off", 1_000_000, 1_000_000, False),
        ("OFF", 1_000_000, 1_000_000, False),
        (False, 1_000_000, 1_000_000, False),
    ],
)
def test_a_share_a_number_or_off(
    given: object, deletes: int, documents: int, *, expected: bool
) -> None:
    assert is_held(deletes, documents, parse_delete_guard(given)) is expected


@pytest.mark.parametrize(
    "given",
    ["", "many", "100%", "120%", "-1", "-5%", "0.2", 0.2, None, True, "5 000", "1e3%"],
)
def test_what_is_neither_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="a share below 100%"):
        parse_delete_guard(given)


def test_what_is_held_back_names_how_many_of_how_many_and_some() -> None:
    missing = Missing(3000, 4000, ('"a"', '"b"'))

    guard = held_back(DEFAULT_LIMIT, missing, None, table_id="T", at=7)
    assert guard == Guard(7, 3000, 4000, ('"a"', '"b"'), "T")


def test_documents_that_came_since_do_not_thin_out_the_share() -> None:
    """Without this a restart would let the deletes go."""
    before = held_back(DEFAULT_LIMIT, Missing(3000, 4000), None, table_id="T", at=7)
    later = held_back(DEFAULT_LIMIT, Missing(3000, 900_000), before, table_id="T", at=8)

    assert later == Guard(8, 3000, 4000, (), "T")


@given(
    limit=LIMITS,
    deletes=COUNTS,
    documents=COUNTS,
    earlier=COUNTS,
    accepted=st.none() | COUNTS,
    table_id=st.sampled_from(["T", "other"]),
)
def test_only_what_was_accepted_goes_beyond_the_limit(
    limit: DeleteLimit | None,
    deletes: int,
    documents: int,
    earlier: int,
    accepted: int | None,
    table_id: str,
) -> None:
    before = Guard(1, 5, earlier, (), "T", accepted)
    missing = Missing(deletes, documents)
    guard = held_back(limit, missing, before, table_id=table_id, at=2)
    is_accepted = accepted is not None and deletes <= accepted and table_id == "T"
    is_allowed = limit is None or not limit.is_exceeded(deletes, min(documents, earlier))

    assert (guard is None) is (is_accepted or is_allowed)
    if guard is not None:
        assert guard.accepted is None, "what was accepted is used up"
        assert held_back(limit, missing, guard, table_id=table_id, at=3) is not None
