"""How long to wait before trying again: exponential, jittered, capped."""

from typing import NamedTuple

import tenacity


class Backoff(NamedTuple):
    """A schedule of waits, in seconds."""

    initial_seconds: float
    most_seconds: float

    def wait(self) -> tenacity.wait.wait_base:
        """Return tenacity's wait: doubling from `initial_seconds`, with jitter, capped.

        Jitter keeps many feeds that were lost together from coming back together.
        """
        return tenacity.wait_exponential(
            multiplier=self.initial_seconds, max=self.most_seconds - self.initial_seconds
        ) + tenacity.wait_random(0, self.initial_seconds)

    def seconds(self, attempt: int) -> float:
        """Return the wait before retry ``attempt`` (from 1), without jitter."""
        return float(min(self.most_seconds, self.initial_seconds * 2 ** min(attempt - 1, 30)))


OUTBOX = Backoff(0.2, 5.0)
"""Between attempts to commit to an outbox that cannot be written now."""
