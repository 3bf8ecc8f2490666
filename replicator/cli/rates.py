"""Rates and a forecast, from the facts of ``/status`` over the last seconds.

Pure; the caller passes the time.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from replicator.cli.output import Facts

_MAX_MOMENTS: Final = 11  # ten seconds, one a second
_STEADY: Final = 0.05  # entries a second; a smaller change counts as none
_FAR: Final = 30 * 86400.0  # seconds; nothing is forecast beyond


class Forecast(NamedTuple):
    """Where the backlog goes at the present rate: its state, and when it is reached."""

    state: Literal["unknown", "empty", "steady", "drains", "fills", "full"]
    seconds: float | None = None  # until it is empty, or full


class Rates(NamedTuple):
    """Changes per second over the last seconds; None where unknown."""

    seconds: float
    captured: Mapping[str, float]  # by table
    confirmed: float | None
    pending: float
    entries: float  # pending and parked
    bytes: float


class _Moment(NamedTuple):
    """What was known then."""

    at: float
    facts: Facts
    confirmed: float | None

    @property
    def captured(self) -> dict[str, int]:
        return {feed["table"]: feed["captured"] for feed in self.facts["feeds"]}


class Speedometer:
    """Keeps the last moments; starts again when the service restarted or was away."""

    def __init__(self) -> None:
        """Start without moments."""
        self._moments: deque[_Moment] = deque(maxlen=_MAX_MOMENTS)

    def add(self, at: float, facts: Facts, confirmed: float | None) -> None:
        """Add what is known at an instant; they come in their order.

        Args:
            at: monotonic seconds.
            facts: those of ``/status``.
            confirmed: how many entries since the service started; None if unknown.
        """
        now = _Moment(at, facts, confirmed)
        if self._moments and not _is_continued(self._moments[-1], now):
            self._moments.clear()
        self._moments.append(now)

    def rates(self) -> Rates | None:
        """Return the rates; None until there are two moments."""
        if len(self._moments) < 2:
            return None
        first, last = self._moments[0], self._moments[-1]
        seconds = last.at - first.at
        if seconds <= 0:
            return None
        before = first.captured
        confirmed = None
        if first.confirmed is not None and last.confirmed is not None:
            confirmed = (last.confirmed - first.confirmed) / seconds

        def rate(*names: str) -> float:
            more = sum(last.facts["outbox"][n] - first.facts["outbox"][n] for n in names)
            return float(more / seconds)

        return Rates(
            seconds=seconds,
            captured={
                table: (count - before.get(table, count)) / seconds
                for table, count in last.captured.items()
            },
            confirmed=confirmed,
            pending=rate("pending"),
            entries=rate("pending", "parked"),
            bytes=rate("bytes"),
        )


def _is_continued(before: _Moment, now: _Moment) -> bool:
    """Return whether both are of one run; otherwise counters may have started again."""
    return (
        before.facts["running"] == now.facts["running"]
        and before.facts["outbox"]["id"] == now.facts["outbox"]["id"]
        and (before.confirmed is None) == (now.confirmed is None)
        and (now.confirmed or 0) >= (before.confirmed or 0)
    )


def forecast(outbox: Facts, rates: Rates | None) -> Forecast:
    """Return when the outbox is full or empty at the present rates."""
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
