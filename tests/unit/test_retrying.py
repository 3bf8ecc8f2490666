"""Trying again for ever, until it works or somebody stops it."""

import threading
from typing import Any

import pytest
import tenacity

from replicator.retrying import for_ever


class Loop:
    """A block that fails as often as it is told to."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.stop = threading.Event()
        self.noted: list[BaseException] = []
        self.attempts: list[int] = []

    def run(self, wait_seconds: float = 0.0) -> None:
        retrying = for_ever(
            self.stop,
            is_retried=lambda err: isinstance(err, OSError),
            wait=lambda _err: tenacity.wait_fixed(wait_seconds),
            note=self.noted.append,
        )
        for attempt in retrying:
            with attempt:
                self.attempts.append(attempt.retry_state.attempt_number)
                self.step(attempt.retry_state)

    def step(self, _state: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)


def test_it_tries_until_the_block_works() -> None:
    errors = [OSError(str(number)) for number in range(50)]
    loop = Loop(*errors)
    loop.run()

    assert loop.noted == errors
    assert loop.attempts == list(range(1, 52))


def test_an_error_that_is_not_retried_is_raised_at_once() -> None:
    loop = Loop(OSError("passes"), ValueError("does not"))

    with pytest.raises(ValueError, match="does not"):
        loop.run()
    assert len(loop.attempts) == 2


def test_a_stopped_loop_raises_the_last_error() -> None:
    loop = Loop(OSError("first"), OSError("second"))
    loop.stop.set()

    with pytest.raises(OSError, match="first"):
        loop.run()


def test_a_wait_ends_when_the_loop_is_stopped() -> None:
    loop = Loop(OSError("first"))
    thread = threading.Thread(target=loop.run, args=(600,), daemon=True)
    thread.start()
    loop.stop.set()
    thread.join(20)

    assert not thread.is_alive()


def test_a_block_that_works_again_waits_as_at_the_beginning() -> None:
    seen: list[int] = []

    class Recovering(Loop):
        def step(self, state: Any) -> None:
            seen.append(state.attempt_number)
            if len(seen) == 3:
                state.attempt_number = 1
            super().step(state)

    Recovering(*(OSError("again") for _ in range(4))).run()

    assert seen == [1, 2, 3, 2, 3]


def test_the_wait_depends_on_the_error() -> None:
    asked: list[BaseException | None] = []
    stop = threading.Event()
    error = OSError("no")

    def wait(err: BaseException | None) -> Any:
        asked.append(err)
        return tenacity.wait_none()

    errors = [error]
    for attempt in for_ever(stop, is_retried=lambda _e: True, wait=wait, note=lambda _e: None):
        with attempt:
            if errors:
                raise errors.pop()

    assert asked == [error]
