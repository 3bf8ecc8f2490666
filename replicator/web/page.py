"""The page for people at ``/``: complete without JavaScript, refreshed by a small script.

Everything is in one answer. Its Content-Security-Policy names the script and the style by their
digests, so that nothing that got into the page by mistake can run.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, Final

from replicator.domain.words import count, duration, size
from replicator.web.history import HISTORY_SECONDS
from replicator.web.plot import plot

Facts = Mapping[str, Any]

_STYLE: Final = resources.files(__package__).joinpath("page.css").read_text("utf-8")
_SCRIPT: Final = resources.files(__package__).joinpath("page.js").read_text("utf-8")
_KIND_OF_STATE: Final = {
    "ready": "good",
    "lost": "error",
    "paused": "error",
    "dropped": "quiet",
}
_LINKS: Final = ("status", "history", "metrics", "livez", "readyz")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PAGE_POLICY: Final = (
    f"default-src 'none'; script-src 'sha256-{_digest(_SCRIPT)}'; "
    f"style-src 'sha256-{_digest(_STYLE)}'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page."""


def render_page(facts: Facts, history: Facts, as_of: str) -> str:
    """Return the page.

    Args:
        facts: those of ``/status``.
        history: those of ``/history``.
        as_of: the time of both, for people, UTC.
    """
    links = "".join(f'<a href="{path}">{path}</a>' for path in _LINKS)
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        f"<title>replicator: {escape(_state_words(facts))}</title>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        '<link rel=icon href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>replicator <span class=version>{escape(str(facts['version']))}</span></h1>\n"
        f"{_state(facts)}\n"
        "<div id=stale role=alert class=error></div></header>\n<main>\n"
        "<h2 id=troubles-title>What is wrong right now</h2>\n"
        f"{_troubles(facts['troubles'])}\n"
        f"<h2>Now</h2>\n{_figures(facts)}\n"
        f"<h2>The last hour</h2>\n{_plots(history)}\n"
        "<h2 id=feeds-title>Feeds</h2>\n"
        # The keyboard must be able to scroll it.
        "<div class=wide role=region aria-labelledby=feeds-title tabindex=0>"
        f"{_feeds(facts['feeds'], history['rates'])}</div>\n</main>\n<footer>\n"
        f"<p id=as-of class=quiet>As of {escape(as_of)}</p>\n"
        "<noscript><p class=quiet>Reload the page for newer figures.</p></noscript>\n"
        f"<nav aria-label=Data>{links}</nav>\n</footer>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _state_words(facts: Facts) -> str:
    if facts["ready"]:
        state = "ready"
    else:
        state = "not ready, buffering" if facts.get("degraded") else "not ready"
    troubles = facts["troubles"]
    return f"{state}, {count(len(troubles), 'problem', 'problems')}" if troubles else state


def _state(facts: Facts) -> str:
    kind = "good" if facts["ready"] else "error"
    if facts["ready"] and facts["troubles"]:
        kind = "warning"
    words = _state_words(facts)
    return f"<p id=state class={kind}>{escape(words[:1].upper() + words[1:])}</p>"


def _troubles(troubles: Sequence[Facts]) -> str:
    items = "".join(_trouble(each) for each in troubles)
    body = f"<ul>{items}</ul>" if troubles else "<p class=good>Nothing is wrong.</p>"
    # The script compares these: a screen reader reads the list again only when they change.
    texts = json.dumps([[each["level"], each["text"]] for each in troubles])
    return (
        f'<div id=troubles aria-live=polite aria-labelledby=troubles-title data-texts="'
        f'{escape(texts)}">{body}</div>'
    )


def _trouble(trouble: Facts) -> str:
    kind = "error" if trouble["level"] == "error" else "warning"
    since = f"Since {_moment(trouble['since'])}. " if trouble["since"] else ""
    detail = escape(str(trouble["detail"] or ""))
    hint = str(trouble["hint"])
    return (
        f"<li class={kind}><strong>{kind.title()}: {escape(str(trouble['text']))}</strong>"
        f"<p class=detail aria-live=off>{since}{detail}</p>"
        f"<p>{escape(hint[:1].upper() + hint[1:])}.</p></li>"
    )


def _figures(facts: Facts) -> str:
    outbox, broker = facts["outbox"], facts["broker"]
    entries = outbox["pending"] + outbox["parked"]
    share = max(entries / outbox["max_entries"], outbox["bytes"] / outbox["max_bytes"])
    if broker["blocked"]:
        state = "blocked"
    else:
        state = "connected" if broker["connected"] else "not connected"
    figures = (
        ("Backlog", count(outbox["pending"], "entry", "entries")),
        ("Oldest entry", duration(outbox["oldest_entry_age_seconds"])),
        ("In flight", f"{broker['in_flight']:,}"),
        ("Parked", f"{outbox['parked']:,}"),
        ("Gaps open", f"{sum(feed['gap'] is not None for feed in facts['feeds']):,}"),
        ("To be retried", f"{broker['refused']:,}"),
        ("Outbox", f"{size(outbox['bytes'])}, {_share(share)} full"),
        ("RabbitMQ", state),
    )
    pairs = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in figures
    )
    return f"<dl id=figures>{pairs}</dl>"


def _plots(history: Facts) -> str:
    ages = history["age_seconds"]
    backlog = plot(
        "Backlog, entries",
        ages,
        history["pending"],
        span_seconds=HISTORY_SECONDS,
        words=lambda value: f"{value:,.0f}",
    )
    oldest = plot(
        "Age of the oldest entry",
        ages,
        history["oldest_entry_age_seconds"],
        span_seconds=HISTORY_SECONDS,
        words=duration,
    )
    return f"<div id=plots>{backlog}{oldest}</div>"


def _feeds(feeds: Sequence[Facts], rates: Facts) -> str:
    rows = "".join(_feed(each, rates["tables"].get(each["table"])) for each in feeds)
    return (
        f"<table id=feeds><caption>Changes per second are those of the last "
        f"{rates['seconds']:.0f} seconds.</caption><thead><tr>"
        "<th scope=col>Table</th><th scope=col>State</th>"
        "<th scope=col class=number>Captured per s</th>"
        "<th scope=col class=number>Confirmed per s</th>"
        "<th scope=col class='number spare'>Captured</th>"
        "<th scope=col class=spare>Last change</th><th scope=col class=spare>Gap</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _feed(feed: Facts, rate: Facts | None) -> str:
    state = str(feed["state"])
    kind = _KIND_OF_STATE.get(state, "warning")
    gap = feed["gap"]
    # The list of troubles says since when.
    gap_words = escape(str(gap["cause"])) if gap else "none"
    name = escape(str(feed["table"]))
    changed = _moment(feed["changed_at"]) if feed["changed_at"] else "none yet"
    return (
        f"<tr><th scope=row>{name}</th>"
        f"<td class={kind}>{escape(state)}</td>"
        f"<td class=number>{_per_second(rate, 'captured_per_second')}</td>"
        f"<td class=number>{_per_second(rate, 'confirmed_per_second')}</td>"
        f"<td class='number spare'>{feed['captured']:,}</td>"
        f"<td class=spare>{changed}</td><td class=spare>{gap_words}</td></tr>"
    )


def _per_second(rate: Facts | None, name: str) -> str:
    if rate is None:
        return "not known yet"
    value = float(rate[name])
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def _moment(instant: object) -> str:
    """Return an instant for people, to the second."""
    text = str(instant)
    words = text[:19].replace("T", " ") + " UTC"
    return f'<time datetime="{escape(text)}">{escape(words)}</time>'


def _share(share: float) -> str:
    return "under 1%" if 0 < share < 0.01 else f"{share:.0%}"
