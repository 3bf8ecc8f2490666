"""What is wrong right now, in words, with what to do about it.

Pure: reads the facts of ``/status`` and a few signs beside them. ``/``, ``/status`` and the causes
of ``/readyz`` say the same, because they all take it from here. The words are in ``troubles.toml``:
they stay the same as long as the trouble does, and figures that move are in its detail.
"""

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Final, Literal, NamedTuple

from replicator.domain.words import count, duration
from replicator.web.facts import Facts

UNROUTABLE_SECONDS: Final = 600.0
_NEARLY_FULL: Final = 0.8
_STILL_FULL: Final = 0.9  # paused feeds go on below this share of a limit
_LATE_SECONDS: Final = 60.0
_CLOCK_SECONDS: Final = 30.0
_WORDS: Final[Mapping[str, Mapping[str, Facts]]] = tomllib.loads(
    resources.files(__package__).joinpath("troubles.toml").read_text("utf-8")
)


class Trouble(NamedTuple):
    """One thing that is wrong."""

    level: Literal["error", "warning"]
    part: str  # service, discovery, feed, outbox, broker, host
    text: str
    hint: str
    table: str | None = None
    since: str | None = None  # RFC 3339, UTC
    detail: str | None = None


class Signs(NamedTuple):
    """What may be wrong and is not a fact of ``/status``."""

    stuck: tuple[str, ...] = ()  # loops that make no progress
    is_disk_nearly_low: bool = False
    unroutable: float = 0.0  # in the last `UNROUTABLE_SECONDS`
    on_unroutable: str = "drop"
    clock_moved_seconds: float = 0.0


def hint_for(part: str, state: str) -> str | None:
    """Return what to do about a cause of ``/readyz``; None for a state without advice."""
    words = _WORDS[part].get(state)
    return words["hint"] if words else None


def find_troubles(facts: Facts, signs: Signs = Signs()) -> list[Trouble]:  # noqa: B008 -- immutable
    """Return everything that is wrong, errors first.

    Args:
        facts: those of ``/status``; ``broker`` is None when the service does not run.
        signs: what else is seen.
    """
    found = [*_of_service(facts, signs), *_of_outbox(facts["outbox"], signs)]
    # Without the service, the recorded feeds are as it left them.
    if facts["broker"] is not None:
        found += _of_discovery(facts)
        found += [trouble for feed in facts["feeds"] for trouble in _of_feed(feed)]
        found += _of_broker(facts["broker"], facts["outbox"], signs)
    moved = signs.clock_moved_seconds
    if abs(moved) >= _CLOCK_SECONDS:
        way = "forward (or this host slept)" if moved > 0 else "back"
        found.append(_trouble("host", "clock", way=way, detail=f"by {duration(abs(moved))}"))
    return sorted(found, key=lambda trouble: trouble.level != "error")


def _trouble(
    part: str,
    state: str,
    *,
    table: str | None = None,
    since: str | None = None,
    detail: str | None = None,
    **named: str,
) -> Trouble:
    words = _WORDS[part][state]
    text = words["text"].format(table=table, **named)
    return Trouble(words["level"], part, text, words["hint"], table, since, detail)


def _of_service(facts: Facts, signs: Signs) -> Iterator[Trouble]:
    if not facts["running"]:
        yield _trouble("service", "not running")
    elif facts["broker"] is None:
        yield _trouble("service", "silent")
    if any(cause.get("state") == "stopping" for cause in facts.get("not_ready", ())):
        yield _trouble("service", "stopping")
    for loop in signs.stuck:
        yield _trouble("service", "stuck", loop=loop)


def _of_discovery(facts: Facts) -> Iterator[Trouble]:
    known = {feed["table"] for feed in facts["feeds"]}
    for cause in facts.get("not_ready", ()):
        if cause["part"] == "discovery":
            since, error = cause["since"], cause["error"]
            yield _trouble("discovery", cause["state"], since=since, detail=error)
        elif cause["part"] == "feed" and cause["table"] not in known:
            yield _trouble("feed", "new", table=cause["table"])


def _of_feed(feed: Facts) -> Iterator[Trouble]:
    table, state, detail = feed["table"], feed["state"], None
    if state == "lost":
        detail = feed["last_error"]
        state = state if detail else "not open"
    elif state == "initializing":
        detail = count(feed["snapshot_documents"], "document so far", "documents so far")
    elif state == "guarded":
        detail = "{deletes:,} documents; the index had {documents:,}".format(**feed["guarded"])
    if state in _WORDS["feed"]:
        yield _trouble("feed", state, table=table, since=feed["since"], detail=detail)
    # The advice about a gap is to wait, which does not help a guarded feed.
    if (gap := feed["gap"]) is not None and state != "guarded":
        yield _trouble("feed", "gap", table=table, since=gap["from"], cause=gap["cause"])


def _of_outbox(outbox: Facts, signs: Signs) -> Iterator[Trouble]:
    entries = outbox["pending"] + outbox["parked"]
    shares = {
        "outbox.max_entries": entries / outbox["max_entries"],
        "outbox.max_bytes": outbox["bytes"] / outbox["max_bytes"],
    }

    def over(least: float) -> str:
        return " and ".join(name for name, share in shares.items() if share >= least)

    full = over(_STILL_FULL) if outbox["full"] else ""
    detail = f"{count(entries, 'entry', 'entries')}, {outbox['bytes']:,} bytes"
    if outbox["error"]:
        yield _trouble("outbox", "unwritable", detail=outbox["error"])
    if full:
        yield _trouble("outbox", "full", limits=full, detail=detail)
    elif near := over(_NEARLY_FULL):
        yield _trouble("outbox", "nearly full", limits=near, detail=detail)
    if outbox["full"] and not full:
        yield _trouble("outbox", "no room")
    elif signs.is_disk_nearly_low:
        yield _trouble("outbox", "little room")
    if outbox["parked"]:
        yield _trouble("outbox", "parked", detail=count(outbox["parked"], "entry", "entries"))


def _of_broker(broker: Facts, outbox: Facts, signs: Signs) -> Iterator[Trouble]:
    age = outbox["oldest_entry_age_seconds"]
    if broker["blocked"] or not broker["connected"]:
        state = "blocked" if broker["blocked"] else "disconnected"
        yield _trouble("broker", state, since=broker["since"], detail=broker["error"])
    elif broker["refused"]:
        yield _trouble("broker", "refused", detail=count(broker["refused"], "message", "messages"))
    elif outbox["pending"] and age >= _LATE_SECONDS:
        yield _trouble("broker", "late", detail=f"the oldest for {duration(age)}")
    if signs.unroutable and signs.on_unroutable == "drop":
        detail = f"{signs.unroutable:,.0f} in the last {duration(UNROUTABLE_SECONDS)}"
        yield _trouble("broker", "unroutable", detail=detail)
