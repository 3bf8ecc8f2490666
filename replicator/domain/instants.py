"""Instants as people and consumers read them: RFC 3339, UTC."""

import datetime as dt
from typing import Final

_EPOCH: Final = dt.datetime.fromtimestamp(0, dt.UTC)


def rfc3339(microseconds: int, timespec: str = "microseconds") -> str:
    """Return an instant, given in microseconds since the epoch, as exactly as ``timespec`` says."""
    moment = _EPOCH + dt.timedelta(microseconds=microseconds)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def shown(microseconds: int | None) -> str | None:
    """Return an instant with milliseconds, as commands and ``/status`` show it; None for none."""
    return None if microseconds is None else rfc3339(microseconds, "milliseconds")
