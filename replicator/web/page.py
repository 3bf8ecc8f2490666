"""The page for people at ``/``: complete without JavaScript, refreshed by a small script.

Everything is in one answer; ``page.html`` is its form, which escapes whatever stands in it. The
Content-Security-Policy names the script and the style by their digests, so that nothing that got
into the page by mistake can run.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Final, NamedTuple

from tornado.escape import xhtml_escape
from tornado.template import Template

from replicator.domain.words import count, duration, size
from replicator.web.facts import Facts
from replicator.web.history import HISTORY_SECONDS

_PLOT_WIDTH: Final = 600
_PLOT_HEIGHT: Final = 80
# Longer without a sample, and the line is cut: nothing is known of that time.
_CUT_SECONDS: Final = 45.0


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_STYLE: Final = _text("page.css")
_SCRIPT: Final = _text("page.js")
_PAGE: Final = Template(_text("page.html"), "page.html")

PAGE_POLICY: Final = (
    f"default-src 'none'; script-src 'sha256-{_digest(_SCRIPT)}'; "
    f"style-src 'sha256-{_digest(_STYLE)}'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page."""


class Plot(NamedTuple):
    """A line over the last hour, as SVG."""

    title: str
    now: str
    max: str
    lines: list[tuple[str, str]]  # where each unbroken line starts, and its path


def render_page(facts: Facts, history: Facts, as_of: str) -> bytes:
    """Return the page.

    Args:
        facts: those of ``/status``.
        history: those of ``/history``.
        as_of: the time of both, for people, UTC.
    """
    troubles = facts["troubles"]
    return _PAGE.generate(
        facts=facts,
        rates=history["rates"],
        as_of=as_of,
        state=_state(facts),
        state_kind=("warning" if troubles else "good") if facts["ready"] else "error",
        texts=json.dumps([[each["level"], each["text"]] for each in troubles]),
        figures=_figures(facts),
        plots=[
            _plot("Backlog, entries", history, "pending", lambda value: f"{value:,.0f}"),
            _plot("Age of the oldest entry", history, "oldest_entry_age_seconds", duration),
        ],
        plot_width=_PLOT_WIDTH,
        plot_height=_PLOT_HEIGHT,
        kind_of_state={"ready": "good", "dropped": "quiet"}
        | dict.fromkeys(("lost", "paused", "guarded"), "error"),
        links=("status", "history", "metrics", "livez", "readyz"),
        moment=_moment,
        per_second=_per_second,
        sentence=lambda text: text[:1].upper() + text[1:],
        style=_STYLE,
        script=_SCRIPT,
    )


def _state(facts: Facts) -> str:
    words = ["ready" if facts["ready"] else "not ready"]
    if facts.get("degraded"):
        words.append("buffering")
    if facts["troubles"]:
        words.append(count(len(facts["troubles"]), "problem", "problems"))
    return ", ".join(words)


def _figures(facts: Facts) -> list[tuple[str, str]]:
    outbox, broker = facts["outbox"], facts["broker"]
    entries = outbox["pending"] + outbox["parked"]
    share = max(entries / outbox["max_entries"], outbox["bytes"] / outbox["max_bytes"])
    full = "under 1%" if 0 < share < 0.01 else f"{share:.0%}"
    state = "connected" if broker["connected"] else "not connected"
    return [
        ("Backlog", count(outbox["pending"], "entry", "entries")),
        ("Oldest entry", duration(outbox["oldest_entry_age_seconds"])),
        ("In flight", f"{broker['in_flight']:,}"),
        ("Parked", f"{outbox['parked']:,}"),
        ("Gaps open", f"{sum(feed['gap'] is not None for feed in facts['feeds']):,}"),
        ("To be retried", f"{broker['refused']:,}"),
        ("Outbox", f"{size(outbox['bytes'])}, {full} full"),
        ("RabbitMQ", "blocked" if broker["blocked"] else state),
    ]


def _plot(title: str, history: Facts, name: str, words: Callable[[float], str]) -> Plot:
    values = history[name]
    if len(values) < 2:
        return Plot(title, "", "", [])
    lines = _lines(history["age_seconds"], values)
    return Plot(title, words(values[-1]), words(max(values)), lines)


def _lines(ages: Sequence[float], values: Sequence[float]) -> list[tuple[str, str]]:
    """Return each unbroken line: where it starts, and its path."""
    found: list[list[tuple[str, str]]] = []
    top, last = max(values) or 1.0, float("inf")
    for age, value in zip(ages, values, strict=True):
        if last - age > _CUT_SECONDS:
            found.append([])
        x = _PLOT_WIDTH * (1 - min(1.0, age / HISTORY_SECONDS))
        # One unit of margin above and below, or half of the line's width would be cut off.
        y = 1 + (_PLOT_HEIGHT - 2) * (1 - value / top)
        found[-1].append((f"{x:.1f}", f"{y:.1f}"))
        last = age
    return [(line[0][0], "M" + " L".join(map(" ".join, line))) for line in found]


def _per_second(rate: float | None) -> str:
    if rate is None:
        return "not known yet"
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def _moment(instant: object) -> str:
    """Return an instant for people, to the second."""
    text = str(instant)
    words = text[:19].replace("T", " ") + " UTC"
    return f'<time datetime="{xhtml_escape(text)}">{xhtml_escape(words)}</time>'
