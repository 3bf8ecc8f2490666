"""The last hour in figures: a sample every ten seconds, in a bounded ring.

It owns no facts: the observation of the service adds them. Times between samples are taken from
the monotonic clock, so that setting the host's clock does not distort a rate.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

SAMPLE_SECONDS: Final = 10.0
HISTORY_SECONDS: Final = 3600.0
RATE_SECONDS: Final = 60.0


class Sample(NamedTuple):
    """The figures of one moment."""

    at: float  # seconds since the epoch
    monotonic: float  # seconds of the monotonic clock
    pending: int
    parked: int
    in_flight: int
    oldest_entry_age_seconds: float
    captured: int  # since the start, like the next two
    confirmed: int
    unroutable: int


class Flow(NamedTuple):
    """What has gone through for one table, since the start or per second."""

    captured: float
    confirmed: float


class History:
    """The samples of the last hour; for one thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._samples: deque[Sample] = deque(maxlen=int(HISTORY_SECONDS / SAMPLE_SECONDS))
        self._flows: deque[tuple[float, Mapping[str, Flow]]] = deque(
            maxlen=int(RATE_SECONDS / SAMPLE_SECONDS) + 1
        )

    def is_due(self, now: float) -> bool:
        """Return whether the next sample is due; ``now`` is in monotonic seconds."""
        return not self._samples or now >= self._samples[-1].monotonic + SAMPLE_SECONDS

    def add(self, sample: Sample, flows: Mapping[str, Flow]) -> None:
        """Keep a sample, and the flow of each table for its rate."""
        self._samples.append(sample)
        self._flows.append((sample.monotonic, flows))

    def samples(self) -> list[Sample]:
        """Return the samples of the last hour, oldest first."""
        # After the process was stopped (SIGSTOP), samples can be older than an hour.
        oldest = self._samples[-1].monotonic - HISTORY_SECONDS if self._samples else 0.0
        return [sample for sample in self._samples if sample.monotonic >= oldest]

    def rates(self) -> dict[str, Flow]:
        """Return each table's flow per second over the last minute; empty before two samples."""
        if len(self._flows) < 2:
            return {}
        (started, before), (ended, now) = self._flows[0], self._flows[-1]
        return {
            table: _per_second(before.get(table, Flow(0, 0)), flow, ended - started)
            for table, flow in now.items()
        }

    def unroutable_within(self, seconds: float) -> int:
        """Return how many messages no queue took within the last ``seconds``."""
        found = self.samples()
        if not found:
            return 0
        newest = found[-1]
        # The first sample's own count is from the time before it.
        first = next(each for each in found if each.monotonic >= newest.monotonic - seconds)
        return max(0, newest.unroutable - first.unroutable)

    def clock_moved_seconds(self) -> float:
        """Return the largest jump of the host's clock within the samples; negative is back.

        A host that slept counts too, because the monotonic clock stands still meanwhile.
        """
        offsets = [each.at - each.monotonic for each in self.samples()]
        moves = [later - before for before, later in itertools.pairwise(offsets)]
        return max(moves, key=abs, default=0.0)


def _per_second(before: Flow, now: Flow, seconds: float) -> Flow:
    # A table that was dropped and created again counts from zero: its rate is not negative.
    return Flow(*(max(0.0, b - a) / seconds for a, b in zip(before, now, strict=True)))
