"""Waits that are too long are given up; time in which the process stood still is not counted."""

import threading

import pytest

from replicator.source import watchdog as watchdog_module
from replicator.source.watchdog import Watch, Watchdog


class Clock:
    """Time for the watches, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watchdog_module.time, "monotonic", lambda: self.now)


def test_a_wait_that_is_over_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    given_up: list[int] = []
    watch = Watch()
    with watch.expect(10, lambda: given_up.append(1)):
        assert not watch.check(clock.now + 9.9, 0)
    assert not watch.check(clock.now + 100, 0)

    assert given_up == []


def test_a_wait_that_takes_too_long_is_given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    given_up: list[int] = []
    dog = Watchdog()
    with dog.watch().expect(10, lambda: given_up.append(1)):
        assert dog.step(clock.now + 10, 0.5) == 1
        assert dog.step(clock.now + 20, 0.5) == 0

    assert given_up == [1]


def test_every_watch_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    given_up: list[str] = []
    dog = Watchdog()
    slow, fast = dog.watch(), dog.watch()
    with (
        slow.expect(60, lambda: given_up.append("slow")),
        fast.expect(5, lambda: given_up.append("fast")),
    ):
        assert dog.step(clock.now + 30, 0.5) == 1
        assert dog.step(clock.now + 60, 0.5) == 1

    assert given_up == ["fast", "slow"]


def test_a_process_that_stood_still_holds_nothing_against_its_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    given_up: list[int] = []
    dog = Watchdog()
    with dog.watch().expect(10, lambda: given_up.append(1)):
        assert dog.step(clock.now + 3600, 3600.5) == 0
        assert dog.step(clock.now + 3609, 0.5) == 0
        assert dog.step(clock.now + 3610, 0.5) == 1

    assert given_up == [1]


def test_a_tick_that_is_a_little_late_counts_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    dog = Watchdog()
    with dog.watch().expect(2, lambda: None):
        assert dog.step(clock.now + 2.4, 2.4) == 1


def test_an_error_in_the_block_ends_the_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Watch()
    with pytest.raises(RuntimeError), watch.expect(1, lambda: None):
        raise RuntimeError("broken")

    assert not watch.check(clock.now + 100, 0)


def test_its_thread_looks_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "_TICK_SECONDS", 0.001)
    dog = Watchdog()
    given_up = threading.Event()
    thread = threading.Thread(target=dog.run, daemon=True)
    with dog.watch().expect(0.01, given_up.set):
        thread.start()
        assert given_up.wait(20)
    dog.stop()
    thread.join(20)

    assert not thread.is_alive()
