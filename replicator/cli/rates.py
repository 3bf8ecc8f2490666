"""Rates and a forecast, from the facts of ``/status`` over the last seconds.

Pure; the caller passes the time.
"""

from collections import deque
from typing import Final

from replicator.cli.output import Facts

_MAX_MOMENTS: Final = 11  # ten seconds, one a second
_STEADY: Final = 0.05  # entries a second; a smaller change counts as none
_FAR: Final = 30 * 86400.0  # seconds; nothing is forecast beyond


class Speedometer:
    """Keeps the last moments; starts again when the service restarted or was away."""

    def __init__(self) -> None:
        """Start without moments."""
        self._moments: deque[tuple[float, Facts]] = deque(maxlen=_MAX_MOMENTS)

    def measure(self, at: float, facts: Facts) -> Facts | None:
        """Add the facts of ``/status`` at an instant, in monotonic seconds.

        Returns changes per second over the last seconds, each None where unknown; None until there
        are two moments.
        """
        if self._moments and not _is_continued(self._moments[-1][1], facts):
            self._moments.clear()
        self._moments.append((at, facts))
        started, before = self._moments[0]
        if at <= started:
            return None

        def rate(now: float | None, then: float | None) -> float | None:
            return None if now is None or then is None else round((now - then) / (at - started), 3)

        captured = {feed["table"]: feed["captured"] for feed in facts["feeds"]}
        then = captured | {feed["table"]: feed["captured"] for feed in before["feeds"]}
        outbox, old = facts["outbox"], before["outbox"]
        return {
            "seconds": round(at - started, 3),
            "captured_per_second": {t: rate(count, then[t]) for t, count in captured.items()},
            "confirmed_per_second": rate(_confirmed(facts), _confirmed(before)),
            "pending_per_second": rate(outbox["pending"], old["pending"]),
            "entries_per_second": rate(_entries(outbox), _entries(old)),
            "bytes_per_second": rate(outbox["bytes"], old["bytes"]),
        }


def _entries(outbox: Facts) -> int:
    return int(outbox["pending"] + outbox["parked"])


def _confirmed(facts: Facts) -> int | None:
    """Return what was confirmed since the service started; None if it is not known."""
    return (facts["broker"] or {}).get("confirmed")


def _is_continued(before: Facts, now: Facts) -> bool:
    """Return whether both are of one run; otherwise counters may have started again."""
    was, count = _confirmed(before), _confirmed(now)
    if (was is None) != (count is None) or (count or 0) < (was or 0):
        return False
    return bool(
        before["running"] == now["running"] and before["outbox"]["id"] == now["outbox"]["id"]
    )


def forecast(outbox: Facts, rates: Facts | None) -> tuple[str, float | None]:
    """Return where the backlog goes at the present rates, and in how many seconds if it ends.

    One of unknown, empty, steady, drains, fills and full.
    """
    if outbox["full"]:
        return "full", None
    if rates is None:
        return "unknown", None
    if rates["entries_per_second"] > _STEADY:
        room = [(outbox["max_entries"] - _entries(outbox)) / rates["entries_per_second"]]
        if rates["bytes_per_second"] > 0:
            room.append((outbox["max_bytes"] - outbox["bytes"]) / rates["bytes_per_second"])
        return ("fills", max(0.0, min(room))) if min(room) < _FAR else ("steady", None)
    if not outbox["pending"]:
        return "empty", None
    if rates["pending_per_second"] < -_STEADY:
        return "drains", outbox["pending"] / -rates["pending_per_second"]
    return "steady", None
