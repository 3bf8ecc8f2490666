"""A clock that only a scenario moves; it stands in for the module `time` in the product."""

MICROSECONDS = 1_000_000


class SimulatedClock:
    """Wall and monotonic time; only the wall clock is ever set to another time."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * MICROSECONDS
        self.has_gone_back = False
        self._monotonic = 1000.0

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self.wall / MICROSECONDS

    def now_us(self) -> int:
        return self.wall

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self.wall += round(seconds * MICROSECONDS)

    def jump(self, seconds: int) -> None:
        """Set the wall clock, as NTP or an operator does; nothing waits for it."""
        self.wall += seconds * MICROSECONDS
        self.has_gone_back = self.has_gone_back or seconds < 0
