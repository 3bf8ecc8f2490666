"""The facts of ``/status`` in words: how service, outbox and broker are, and what is wrong."""

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from replicator.cli.output import Column, Facts, words
from replicator.domain.words import duration, size


def lines(facts: Facts) -> Iterator[Text]:
    """Yield a line each for service, outbox, broker and each thing that is wrong, as the page."""
    yield line("replicator", f"{facts['version']}, {_service_words(facts)}")
    yield line("outbox", _outbox_words(facts["outbox"]))
    yield line("broker", _broker_words(facts["broker"]))
    for trouble in facts.get("troubles", ()):  # a service of an older version has none
        colour = "bold red" if trouble["level"] == "error" else "bold yellow"
        beside = [trouble["detail"], trouble["since"] and f"since {trouble['since']}"]
        known = f" ({', '.join(filter(None, beside))})" if any(beside) else ""
        yield line(trouble["level"], f"{trouble['text']}{known} — {trouble['hint']}", colour)


def line(name: str, text: str, style: str = "bold") -> Text:
    """Return text after its name, below each other on every line."""
    return words((f"{name:11}", style), text)


def gap_words(feed: Facts) -> str | None:
    """Say since when changes of a feed may be missing; None when none are."""
    gap = feed["gap"]
    return f"{gap['cause']} since {gap['from']}" if gap else None


FEEDS: Final[list[Column]] = [
    "table",
    "state",
    "since",
    "last change=changed_at",
    ",captured",
    ",documents=snapshot_documents",
    ("gap", gap_words),
    # Of a feed that is ready again, the last error is history.
    ("…last error", lambda feed: None if feed["state"] == "ready" else feed["last_error"]),
]
"""The columns of a table of feeds."""


def _service_words(facts: Facts) -> str:
    if facts["ready"]:
        return "running, ready"
    causes = facts["not_ready"]
    if facts["broker"] is None:
        return f"{causes[0]['state']}: this is what the outbox has recorded"
    parts = ", ".join(
        " ".join(str(cause[key]) for key in ("part", "table", "state") if cause.get(key))
        for cause in causes
    )
    degraded = f": {facts['degraded']}" if facts.get("degraded") else ""
    return f"running, not ready{degraded} ({parts})"


def _outbox_words(outbox: Facts) -> str:
    words = f"{outbox['pending']:,} pending, {outbox['parked']:,} parked, {size(outbox['bytes'])}"
    if outbox["pending"]:
        words += f", oldest {duration(outbox['oldest_entry_age_seconds'])}"
    words += f"  (id {outbox['id'] or 'none yet'})"
    if outbox["full"]:
        words += "  FULL: feeds are paused"
    return words + (f"  {outbox['error']}" if outbox["error"] else "")


def _broker_words(broker: Facts | None) -> str:
    if broker is None:
        return "unknown: only the running service knows"
    state = "connected" if broker["connected"] else "not connected"
    if broker["blocked"]:
        state = "blocked by RabbitMQ's alarm"
    words = f"{state} since {broker['since']}, {broker['in_flight']:,} in flight"
    words += f", {broker['buffered']:,} buffered"
    return words + (f"  {broker['error']}" if broker["error"] else "")
