"""The watchdog: shuts the socket of a reader that waits too long for an answer.

A reader says what it waits for, and one thread looks after all of them. Time in which the whole
process stood still (SIGSTOP, a suspended machine) does not count.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

_TICK_SECONDS: Final = 0.5
_STOPPED_SECONDS: Final = 2.0


class _Expectation(NamedTuple):
    due_at: float  # monotonic seconds
    give_up: Callable[[], None]


class Watch:
    """What one thread waits for."""

    def __init__(self) -> None:
        """Expect nothing."""
        self._lock = threading.Lock()
        self._expected: _Expectation | None = None

    @contextlib.contextmanager
    def expect(self, seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
        """Call ``give_up`` from the watchdog's thread if the block takes longer than this."""
        with self._lock:
            self._expected = _Expectation(time.monotonic() + seconds, give_up)
        try:
            yield
        finally:
            with self._lock:
                self._expected = None

    def check(self, now: float, stood_still: float) -> bool:
        """Give up if the time is over. Returns whether it was. For the watchdog."""
        with self._lock:
            expected = self._expected
            if expected is None:
                return False
            if stood_still:
                self._expected = expected._replace(due_at=expected.due_at + stood_still)
                return False
            if now < expected.due_at:
                return False
            self._expected = None
            # Critical section: under the lock, so that the block cannot end and its socket
            # become another feed's between the decision and the act.
            expected.give_up()
            return True


class Watchdog:
    """Looks at every `Watch` twice a second, on a thread of its own."""

    def __init__(self) -> None:
        """Begin with no watch."""
        self._watches: list[Watch] = []
        self._stop = threading.Event()

    def watch(self) -> Watch:
        """Return a new watch, to be looked after until `forget`."""
        watch = Watch()
        self._watches.append(watch)
        return watch

    def forget(self, watch: Watch) -> None:
        """Stop looking after a watch: the thread it was for has ended."""
        self._watches.remove(watch)

    def run(self) -> None:
        """Look until stopped."""
        last = time.monotonic()
        while not self._stop.wait(_TICK_SECONDS):
            now = time.monotonic()
            self.step(now, now - last)
            last = now

    def step(self, now: float, since_last: float) -> int:
        """Look once. Returns how many waits were given up."""
        late = since_last - _TICK_SECONDS
        stood_still = late if late > _STOPPED_SECONDS else 0.0
        return sum(watch.check(now, stood_still) for watch in list(self._watches))

    def stop(self) -> None:
        """End `run`; safe to repeat."""
        self._stop.set()
