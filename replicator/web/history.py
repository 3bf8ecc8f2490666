"""The last hour in figures: a sample every ten seconds, in a bounded ring.

It owns no facts: the observation of the service adds them. Times between samples are taken from
the monotonic clock, so that setting the host's clock does not distort a rate.
"""

import itertools
import struct
import threading
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

SAMPLE_SECONDS: Final = 10.0
HISTORY_SECONDS: Final = 3600.0
RATE_SECONDS: Final = 60.0
_MAX_SAMPLES: Final = int(HISTORY_SECONDS / SAMPLE_SECONDS)
_MAX_FOR_RATES: Final = int(RATE_SECONDS / SAMPLE_SECONDS) + 1


class Sample(NamedTuple):
    """The figures of one moment."""

    at: float  # seconds since the epoch
    monotonic: float  # seconds of the monotonic clock
    pending: float
    parked: float
    in_flight: float
    oldest_entry_age_seconds: float
    captured: float  # since the start, like the next two
    confirmed: float
    unroutable: float


class Flow(NamedTuple):
    """What has gone through for one table since the start."""

    captured: float
    confirmed: float


class Rate(NamedTuple):
    """What went through for one table per second, over the last minute."""

    captured_per_second: float
    confirmed_per_second: float


# As Python objects an hour of samples would take ten times the memory.
_PACKED: Final = struct.Struct(f"{len(Sample._fields)}d")


class History:
    """The samples of the last hour; any thread may add and read."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._packed: deque[bytes] = deque(maxlen=_MAX_SAMPLES)
        self._flows: deque[tuple[float, Mapping[str, Flow]]] = deque(maxlen=_MAX_FOR_RATES)
        self._due_at = float("-inf")

    def is_due(self, now: float) -> bool:
        """Return whether the next sample is due; ``now`` is in monotonic seconds."""
        return now >= self._due_at

    def add(self, sample: Sample, flows: Mapping[str, Flow]) -> None:
        """Keep a sample, and the flow of each table for its rate."""
        with self._lock:
            self._packed.append(_PACKED.pack(*sample))
            self._flows.append((sample.monotonic, flows))
            self._due_at = sample.monotonic + SAMPLE_SECONDS

    def samples(self) -> list[Sample]:
        """Return the samples of the last hour, oldest first."""
        with self._lock:
            packed = list(self._packed)
        found = [Sample._make(_PACKED.unpack(each)) for each in packed]
        # After the process was stopped (SIGSTOP), samples can be older than an hour.
        oldest = found[-1].monotonic - HISTORY_SECONDS if found else 0.0
        return [sample for sample in found if sample.monotonic >= oldest]

    def rates(self) -> dict[str, Rate]:
        """Return the rate of each table; empty before the second sample."""
        with self._lock:
            flows = list(self._flows)
        if len(flows) < 2:
            return {}
        (started, before), (ended, now) = flows[0], flows[-1]
        seconds = ended - started
        return {
            table: _rate(before.get(table, Flow(0, 0)), flow, seconds)
            for table, flow in now.items()
        }

    def unroutable_within(self, seconds: float) -> float:
        """Return how many messages no queue took within the last ``seconds``."""
        found = self.samples()
        if not found:
            return 0.0
        newest = found[-1]
        # The first sample's own count is from the time before it.
        first = next(each for each in found if each.monotonic >= newest.monotonic - seconds)
        return max(0.0, newest.unroutable - first.unroutable)

    def clock_moved_seconds(self) -> float:
        """Return the largest jump of the host's clock within the samples; negative is back.

        A host that slept counts too, because the monotonic clock stands still meanwhile.
        """
        offsets = [each.at - each.monotonic for each in self.samples()]
        return max(
            (later - before for before, later in itertools.pairwise(offsets)),
            key=abs,
            default=0.0,
        )


def _rate(before: Flow, now: Flow, seconds: float) -> Rate:
    # A table that was dropped and created again counts from zero: its rate is not negative.
    return Rate(
        max(0.0, now.captured - before.captured) / seconds,
        max(0.0, now.confirmed - before.confirmed) / seconds,
    )
