"""The wall clock, in the unit in which instants are kept."""

import time


def now_us() -> int:
    """Return the time in microseconds since the epoch (UTC)."""
    return time.time_ns() // 1000
