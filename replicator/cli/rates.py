"""How fast things go, and where that leads: from what ``/status`` said a moment ago and says now.

Pure; the caller says what the time is.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

Facts = dict[str, Any]

_MOST_SAMPLES: Final = 11  # ten seconds of one each
_STEADY: Final = 0.05  # entries a second: less is none
_FAR: Final = 30 * 86400.0  # seconds; what is further away is no forecast


class Sample(NamedTuple):
    """What was known at an instant."""

    at: float  # monotonic seconds
    facts: Facts
    confirmed: float | None  # since the service started; None: it is not known


class Forecast(NamedTuple):
    """Where the backlog goes at the present rate."""

    state: Literal["unknown", "empty", "steady", "drains", "fills", "full"]
    seconds: float | None = None  # until it is empty, or full


class Rates(NamedTuple):
    """Changes a second over the last seconds; None where it cannot be known."""

    seconds: float
    captured: Mapping[str, float]  # by table
    confirmed: float | None
    pending: float
    entries: float  # pending and parked
    bytes: float


class Speedometer:
    """Keeps the last samples; starts anew when they do not belong together."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._samples: deque[Sample] = deque(maxlen=_MOST_SAMPLES)

    def add(self, sample: Sample) -> None:
        """Take a sample; in the order of their instants."""
        if self._samples and not _is_continued(self._samples[-1], sample):
            self._samples.clear()
        self._samples.append(sample)

    def rates(self) -> Rates | None:
        """Return the rates; None until there are two samples."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        seconds = last.at - first.at
        if seconds <= 0:
            return None
        before, now = _captured(first.facts), _captured(last.facts)
        confirmed = None
        if first.confirmed is not None and last.confirmed is not None:
            confirmed = (last.confirmed - first.confirmed) / seconds

        def rate(*names: str) -> float:
            more = sum(last.facts["outbox"][n] - first.facts["outbox"][n] for n in names)
            return float(more / seconds)

        return Rates(
            seconds=seconds,
            captured={t: (count - before.get(t, count)) / seconds for t, count in now.items()},
            confirmed=confirmed,
            pending=rate("pending"),
            entries=rate("pending", "parked"),
            bytes=rate("bytes"),
        )


def _captured(facts: Facts) -> dict[str, int]:
    return {feed["table"]: feed["captured"] for feed in facts["feeds"]}


def _is_continued(before: Sample, now: Sample) -> bool:
    """Whether both are of one run: else counts may have begun again, or stood still unseen."""
    if before.facts["running"] != now.facts["running"]:
        return False
    if before.facts["outbox"]["id"] != now.facts["outbox"]["id"]:
        return False
    if (before.confirmed is None) != (now.confirmed is None):
        return False
    return (now.confirmed or 0) >= (before.confirmed or 0)


def forecast(outbox: Facts, rates: Rates | None) -> Forecast:
    """Return when the outbox is full or empty if everything goes on like this."""
    if outbox["full"]:
        return Forecast("full")
    if rates is None:
        return Forecast("unknown")
    if rates.entries > _STEADY:
        room = [(outbox["max_entries"] - outbox["pending"] - outbox["parked"]) / rates.entries]
        if rates.bytes > 0:
            room.append((outbox["max_bytes"] - outbox["bytes"]) / rates.bytes)
        return Forecast("fills", max(0.0, min(room))) if min(room) < _FAR else Forecast("steady")
    if not outbox["pending"]:
        return Forecast("empty")
    if rates.pending < -_STEADY:
        return Forecast("drains", outbox["pending"] / -rates.pending)
    return Forecast("steady")
