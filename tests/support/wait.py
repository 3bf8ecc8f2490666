"""Waiting in tests: for a condition, until a deadline, never for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

_POLL_SECONDS = 0.01

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result], deadline_seconds: float = 10, what: str = "the condition"
) -> Result:
    """Return the first true result of ``condition``; fail the test if it takes too long."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {deadline_seconds} s")
        time.sleep(_POLL_SECONDS)
