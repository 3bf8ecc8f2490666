"""How figures and instants are written for people."""

import pytest

from replicator.domain.instants import rfc3339, shown
from replicator.domain.words import count, duration, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (3605, "1 h"),
        (7260, "2 h 1 min"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_a_duration_is_said_in_at_most_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (4 * 2**30, "4.0 GiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_a_size_is_said_in_binary_units(count: int, words: str) -> None:
    assert size(count) == words


def test_an_instant_is_rfc_3339_in_utc() -> None:
    assert shown(1_700_000_000_123_456) == "2023-11-14T22:13:20.123Z"
    assert shown(None) is None
    assert rfc3339(1_700_000_000_123_456) == "2023-11-14T22:13:20.123456Z"


def test_what_is_counted_is_named_in_its_number() -> None:
    assert [count(n, "entry", "entries") for n in (0, 1, 1234)] == [
        "0 entries",
        "1 entry",
        "1,234 entries",
    ]
