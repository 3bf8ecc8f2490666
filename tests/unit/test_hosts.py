"""Which of several hosts is asked first, and what their failures say."""

import pytest

from replicator.domain.hosts import Host, InTurn, hint_of_tls

A, B, C = ("a", 1), ("b", 2), ("c", 3)


def first(hosts: InTurn) -> Host:
    return next(iter(hosts))


def test_each_look_gives_every_host_once() -> None:
    hosts = InTurn([A, B, C])
    assert list(hosts) == [A, B, C]
    assert list(hosts) == [A, B, C]


def test_a_look_begins_after_the_host_that_the_last_one_ended_with() -> None:
    hosts = InTurn([A, B, C])
    assert [first(hosts) for _ in range(4)] == [A, B, C, A]
    assert list(hosts) == [B, C, A]


def test_one_host_is_always_its_turn() -> None:
    hosts = InTurn([A])
    assert [first(hosts), *hosts] == [A, A]


@pytest.mark.parametrize(
    ("failure", "is_tls", "hint"),
    [
        ("SSL: WRONG_VERSION_NUMBER", True, "; the port does not speak TLS, which x://x turns on"),
        ("SSL: WRONG_VERSION_NUMBER", False, ""),
        ("it hung up", False, "; if the port speaks TLS, use x://x"),
        ("it hung up", True, ""),
        ("refused", False, ""),
    ],
)
def test_ends_that_differ_about_tls_are_hinted_at(failure: str, *, is_tls: bool, hint: str) -> None:
    failures = ["timed out", failure]

    assert hint_of_tls(failures, is_tls=is_tls, setting="x://x", hung_up="hung up") == hint
