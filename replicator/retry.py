"""The one retry loop, around everything that talks to a server or to the outbox.

Built on tenacity. The kind of the error (`replicator.errors`) decides: a `TransientError` is always
retried, a `PermanentError` only for a patient caller, and anything else is a defect that ends the
loop.
"""

import random
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar, cast

import tenacity

from replicator.errors import (
    BrokerRefused,
    PermanentError,
    ReplicatorError,
    SourceRefused,
    TransientError,
)

Result = TypeVar("Result")


class Backoff(NamedTuple):
    """A schedule of waits in seconds: each twice as long as the one before, up to a maximum."""

    initial_seconds: float
    max_seconds: float

    def seconds(self, failures: int) -> float:
        """Return the wait after the Nth failure in a row (from 1), without jitter."""
        return float(min(self.max_seconds, self.initial_seconds * 2 ** min(failures - 1, 30)))

    def with_jitter(self, failures: int) -> float:
        """Return the same wait plus a random part of the initial one.

        Jitter keeps feeds that were lost together from coming back together.
        """
        longest = self.max_seconds - self.initial_seconds
        jitter = random.uniform(0, self.initial_seconds)  # noqa: S311 - not a secret
        return min(self.seconds(failures), longest) + jitter


TRANSIENT: Final = Backoff(0.2, 5.0)
"""After an error that passes by itself: between attempts to connect, or to commit."""

PERMANENT: Final = Backoff(5.0, 60.0)
"""After a server's refusal, which passes only when somebody changes something."""

REFUSED: Final = Backoff(0.1, 5.0)
"""Between attempts to publish an entry that was nacked, or returned and held."""


def _backoff(err: ReplicatorError) -> Backoff:
    # A missing table may be created at any moment: only a refusal is worth a longer wait.
    return PERMANENT if isinstance(err, SourceRefused | BrokerRefused) else TRANSIENT


class Retrying:
    """Repeats an action after each failure; for one thread, except `worked`."""

    def __init__(
        self,
        stop: threading.Event | None = None,
        *,
        note: Callable[[ReplicatorError], None] = lambda _err: None,
        is_patient: Callable[[], bool] = lambda: False,
        max_attempts: int | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            stop: when set, ends the wait between two attempts; no failure is retried any more.
            note: called with each error, before the wait that follows it.
            is_patient: whether a `PermanentError` is retried too.
            max_attempts: raise the error of this attempt; None: try for ever.
        """
        self._stop = stop or threading.Event()
        self._note = note
        self._is_patient = is_patient
        self._failures = 0
        stops: tenacity.stop.stop_base = tenacity.stop_when_event_set(self._stop)
        if max_attempts is not None:
            stops |= tenacity.stop_after_attempt(max_attempts)
        self._tenacity = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_retried),
            stop=stops,
            wait=lambda state: self._seconds(_error_of(state)),
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=lambda state: self._note(_error_of(state)),
            reraise=True,
        )

    def until_done(self, action: Callable[[], Result]) -> Result:
        """Run an action until it works once; return what it returns.

        Raises:
            ReplicatorError: the action's own, if it is not retried, or not any more.
        """
        self._failures = 0
        try:
            # Most actions work at once, and tenacity adds 14 µs to each, as much as a small
            # transaction takes. So only those that failed are left to it.
            return action()
        except ReplicatorError as err:
            failed = [err]

        def again() -> Result:
            if failed:
                raise failed.pop()
            return action()

        return self._tenacity(again)

    def until_stopped(self, action: Callable[[], None]) -> None:
        """Run an action that returns only when stopped, and repeat it after each failure.

        The action calls `worked` whenever the server has answered. A failure after the stop is not
        an error: the stop may have caused it.

        Raises:
            ReplicatorError: the action's own, if it is not retried.
        """

        def unless_stopped() -> None:
            if not self._stop.is_set():
                action()

        try:
            self.until_done(unless_stopped)
        except ReplicatorError:
            if not self._stop.is_set():
                raise

    def worked(self) -> None:
        """Make the next wait as short as the first one. Any thread may call it."""
        self._failures = 0

    def _is_retried(self, err: BaseException) -> bool:
        if isinstance(err, PermanentError):
            return self._is_patient()
        return isinstance(err, TransientError)

    def _seconds(self, err: ReplicatorError) -> float:
        self._failures += 1
        return _backoff(err).with_jitter(self._failures)


def _error_of(state: tenacity.RetryCallState) -> ReplicatorError:
    """Return the error of an attempt: only a ReplicatorError is retried."""
    return cast("ReplicatorError", state.outcome and state.outcome.exception())
