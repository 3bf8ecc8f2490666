"""Retry for ever: the way in which a loop that talks to a server deals with its loss.

Built on tenacity; one place, so that every loop stops at once when it is told to, and so that
no loop gives up.
"""

import threading
from collections.abc import Callable

import tenacity


def for_ever(
    stop: threading.Event,
    *,
    is_retried: Callable[[BaseException], bool],
    wait: Callable[[BaseException | None], tenacity.wait.wait_base],
    note: Callable[[BaseException], None],
) -> tenacity.Retrying:
    """Return a retrying loop that ends without an error only when its block does.

    Args:
        stop: ends the loop, also in the middle of a wait; the last error is then raised.
        is_retried: whether an error is tried again at all; else it is raised.
        wait: how long to wait after an error; the attempt number of the retry state says how
            often it failed in a row, and a block that works again sets it back to 1.
        note: called with each error before the wait.
    """

    def error_of(state: tenacity.RetryCallState) -> BaseException | None:
        return state.outcome.exception() if state.outcome else None

    def seconds(state: tenacity.RetryCallState) -> float:
        return float(wait(error_of(state))(state))

    def before_sleep(state: tenacity.RetryCallState) -> None:
        if (error := error_of(state)) is not None:
            note(error)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_retried),
        wait=seconds,
        sleep=tenacity.sleep_using_event(stop),
        stop=tenacity.stop_when_event_set(stop),
        before_sleep=before_sleep,
        reraise=True,
    )
