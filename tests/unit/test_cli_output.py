"""How figures are written for people."""

import pytest

from replicator.cli.output import human_bytes, human_seconds, instant, to_json


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (7260, "2 h 1 min"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_a_duration_is_said_in_at_most_two_units(seconds: float | None, words: str) -> None:
    assert human_seconds(seconds) == words


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
    assert human_bytes(count) == words


def test_an_instant_is_rfc_3339_in_utc() -> None:
    assert instant(1_700_000_000_123_456) == "2023-11-14T22:13:20.123Z"
    assert instant(None) is None


def test_values_that_json_does_not_know_are_written_anyway() -> None:
    assert to_json({"raw": b"\x00\xff", "other": {1}}) == b'{"raw":"AP8=","other":[1]}'
