"""Which of several hosts is asked first."""

from replicator.domain.hosts import Host, InTurn

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
