"""Trying again: what is retried, how long it waits, and when it ends."""

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import (
    BrokerRefused,
    BrokerUnavailable,
    OutboxUnavailable,
    ReplicatorError,
    SourceRefused,
    SourceUnavailable,
    TableUnusable,
)
from replicator.retry import PERMANENT, REFUSED, TRANSIENT, Backoff, Retrying


class Action:
    """Fails as often as it is told to, then returns the number of its attempts."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.attempts = 0
        self.noted: list[ReplicatorError] = []
        self.stop = threading.Event()

    def __call__(self) -> int:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.attempts

    def retrying(self, **options: Callable[[], bool] | int) -> Retrying:
        return Retrying(self.stop, note=self.noted.append, **options)  # type: ignore[arg-type]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Backoff, int]]:
    """Note the waits, by schedule and number of failures, instead of waiting."""
    noted: list[tuple[Backoff, int]] = []

    def with_jitter(self: Backoff, failures: int) -> float:
        noted.append((self, failures))
        return 0.0

    monkeypatch.setattr(Backoff, "with_jitter", with_jitter)
    return noted


def unavailable(count: int) -> list[Exception]:
    return [OutboxUnavailable(str(number)) for number in range(count)]


def test_it_tries_until_the_action_works(waits: list[tuple[Backoff, int]]) -> None:
    errors = unavailable(50)
    action = Action(*errors)

    assert action.retrying().until_done(action) == 51
    assert action.noted == errors
    assert waits == [(TRANSIENT, failures) for failures in range(1, 51)]


def test_each_action_begins_with_the_shortest_wait(waits: list[tuple[Backoff, int]]) -> None:
    first, second = Action(*unavailable(2)), Action(*unavailable(2))
    retrying = first.retrying()
    retrying.until_done(first)
    retrying.until_done(second)

    assert [failures for _, failures in waits] == [1, 2, 1, 2]


@pytest.mark.usefixtures("waits")
def test_a_defect_is_raised_at_once() -> None:
    action = Action(OutboxUnavailable("passes"), ValueError("a defect"))

    with pytest.raises(ValueError, match="a defect"):
        action.retrying().until_done(action)
    assert action.attempts == 2


@pytest.mark.usefixtures("waits")
def test_a_permanent_error_is_raised_at_once_unless_patience_was_asked_for() -> None:
    is_patient = False
    action = Action(SourceRefused("first"), SourceUnavailable("passes"), SourceRefused("second"))
    retrying = action.retrying(is_patient=lambda: is_patient)

    with pytest.raises(SourceRefused, match="first"):
        retrying.until_done(action)
    is_patient = True
    assert retrying.until_done(action) == 4


@pytest.mark.usefixtures("waits")
def test_attempts_can_be_limited() -> None:
    action = Action(*unavailable(3))

    with pytest.raises(OutboxUnavailable, match="2"):
        action.retrying(max_attempts=3).until_done(action)
    assert action.attempts == 3


def test_only_a_refusal_is_waited_for_longer(waits: list[tuple[Backoff, int]]) -> None:
    action = Action(
        BrokerUnavailable("gone"),
        TableUnusable("may be created at any moment"),
        SourceRefused("password"),
        BrokerRefused("password"),
    )
    action.retrying(is_patient=lambda: True).until_done(action)

    assert waits == [(TRANSIENT, 1), (TRANSIENT, 2), (PERMANENT, 3), (PERMANENT, 4)]


def test_after_it_worked_the_next_wait_is_the_shortest(waits: list[tuple[Backoff, int]]) -> None:
    action = Action(*unavailable(4))
    retrying = action.retrying()

    def work() -> None:
        if action.attempts == 2:
            retrying.worked()
        action()

    retrying.until_stopped(work)

    assert [failures for _, failures in waits] == [1, 2, 1, 2]


def test_a_stop_ends_the_wait_and_no_failure_is_retried_after_it() -> None:
    action = Action(OutboxUnavailable("first"), OutboxUnavailable("second"))
    retrying = Retrying(action.stop, note=lambda _err: action.stop.set())
    began = time.monotonic()

    with pytest.raises(OutboxUnavailable, match="second"):
        retrying.until_done(action)
    assert time.monotonic() - began < TRANSIENT.initial_seconds


def test_a_loop_that_is_stopped_while_it_waits_does_not_begin_again() -> None:
    action = Action(BrokerUnavailable("first"))
    Retrying(action.stop, note=lambda _err: action.stop.set()).until_stopped(lambda: void(action))

    assert action.attempts == 1


@pytest.mark.parametrize("error", [BrokerUnavailable("shut"), BrokerRefused("refused")])
def test_what_fails_after_the_stop_is_not_an_error(error: ReplicatorError) -> None:
    action = Action()

    def fail() -> None:
        action.stop.set()
        raise error

    action.retrying().until_stopped(fail)

    assert action.noted == []


def test_a_refusal_ends_a_loop_that_was_not_stopped() -> None:
    action = Action(BrokerRefused("password"))

    with pytest.raises(BrokerRefused):
        action.retrying().until_stopped(lambda: void(action))


def void(action: Action) -> None:
    action()


@given(failures=st.integers(1, 10_000))
def test_waits_double_up_to_the_maximum(failures: int) -> None:
    backoff = Backoff(0.5, 8.0)

    assert backoff.seconds(1) == 0.5
    assert backoff.seconds(failures) == min(8.0, 0.5 * 2.0 ** min(failures - 1, 20))


@pytest.mark.parametrize("backoff", [TRANSIENT, PERMANENT, REFUSED])
@pytest.mark.parametrize("failures", [1, 2, 3, 10, 5000])
def test_jitter_makes_a_wait_longer_and_never_longer_than_the_maximum(
    backoff: Backoff, failures: int
) -> None:
    shortest = min(backoff.seconds(failures), backoff.max_seconds - backoff.initial_seconds)

    waits = [backoff.with_jitter(failures) for _ in range(20)]

    assert all(shortest <= wait <= backoff.max_seconds for wait in waits)
    assert len(set(waits)) > 1
