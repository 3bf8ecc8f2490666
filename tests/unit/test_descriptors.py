"""The limit of open files: raised, kept to, and named when something fails because of it."""

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from replicator import descriptors
from replicator.errors import OutboxUnavailable, SourceUnavailable


def limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit; the soft one is as before after the test."""
    before = limits()
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def exhausted(hard: int) -> None:
    """Let this process open nothing more."""
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))


def test_the_limit_is_raised_except_for_the_reserve(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    for _ in range(2):
        descriptors.raise_limit()
        assert limits() == (hard - descriptors.RESERVE, hard)


def test_without_a_hard_limit_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, tuple[int, int]]] = []
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, unlimited))
    monkeypatch.setattr(resource, "setrlimit", lambda *given: asked.append(given))
    descriptors.raise_limit()
    assert asked == [(resource.RLIMIT_NOFILE, (65_536 - descriptors.RESERVE, unlimited))]


@pytest.mark.usefixtures("exhausted")
def test_the_reserve_is_open_to_whoever_asks_for_it_only() -> None:
    before = limits()
    with pytest.raises(OSError, match="Too many open files"):
        os.dup(0)
    with descriptors.reserve():
        opened = os.dup(0)
    assert os.fstat(opened)
    os.close(opened)
    assert limits() == before


def test_an_error_that_names_it_has_its_hint() -> None:
    said = f"RethinkDB cannot be reached (h:1: [Errno 24] {os.strerror(errno.EMFILE)})"
    assert "ulimit -n" in str(SourceUnavailable(said, hint="check the server").hint)
    assert SourceUnavailable("cannot be reached", hint="check the server").hint == (
        "check the server"
    )


def test_an_error_that_does_not_name_it_has_its_hint_too(exhausted: None) -> None:
    del exhausted
    hint = OutboxUnavailable("unable to open database file", hint="check the volume").hint
    assert str(hint).startswith("check the volume; this process may have ")
