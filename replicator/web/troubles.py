"""What is wrong right now, in words, with what to do about it.

Pure: reads the facts of ``/status`` and a few signs beside them. ``/``, ``/status`` and the causes
of ``/readyz`` say the same, because they all take it from here.

The text of a trouble stays the same as long as the trouble does, since a screen reader reads out
each change of it. Figures that move are in its detail.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from replicator.domain.words import count, duration

NEAR_FULL: Final = 0.8
_STILL_FULL: Final = 0.9  # paused feeds go on below this share of a limit
UNROUTABLE_SECONDS: Final = 600.0
_LATE_SECONDS: Final = 60.0
_CLOCK_SECONDS: Final = 30.0

Facts = Mapping[str, Any]
Level = Literal["error", "warning"]


class Trouble(NamedTuple):
    """One thing that is wrong."""

    level: Level  # an error stops something; a warning needs a look
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


_HINTS: Final[Mapping[tuple[str, str | None], str]] = {
    ("service", None): "start it: replicator run",
    ("service", "stopping"): "nothing to do: it ends when RabbitMQ has confirmed what is in "
    "flight, or after drain_timeout",
    ("service", "stuck"): "read its log, then stop it and start it again: nothing captured is lost",
    ("service", "silent"): "check http.listen and read its log: only the service knows the state "
    "of its feeds and of RabbitMQ",
    ("discovery", None): "check RethinkDB and the user's right to read its table_config "
    "(replicator check says which); known tables are replicated meanwhile",
    ("feed", "lost"): "check RethinkDB, the network and the user's rights (replicator check says "
    "which); the feed is opened again automatically, and what it missed is found",
    ("feed", "new"): "nothing to do: its feed opens as soon as the outbox can be written",
    ("feed", "initializing"): "nothing to do: it is ready when the snapshot has been compared",
    ("feed", "paused"): "nothing to do here: it goes on when the outbox has room",
    ("feed", "gap"): "nothing to do: the snapshot finds the latest state of every document; "
    "replicator feed gaps lists what it repaired",
    ("broker", "disconnected"): "check RabbitMQ, the network and the user's rights (replicator "
    "check says which); changes are kept in the outbox meanwhile",
    ("broker", "blocked"): "free memory or disk on RabbitMQ's host (rabbitmqctl status names the "
    "alarm); changes are kept in the outbox meanwhile",
    ("broker", "refused"): "look for queues that are full or down, or bind a queue to the exchange",
    ("broker", "unroutable"): "bind a queue to the exchange, or set rabbitmq.on_unroutable to hold "
    "or park",
    ("broker", "late"): "changes arrive faster than RabbitMQ confirms them: compare the rates, and "
    "check RabbitMQ's disk and queues",
    ("outbox", None): "check the volume: free space, permissions, health",
    ("outbox", "full"): "let RabbitMQ take what waits, or raise outbox.max_entries or "
    "outbox.max_bytes",
    ("outbox", "disk"): "free space on the outbox's volume, or enlarge it",
    ("outbox", "parked"): "see why with replicator outbox list --state parked; each stays until it "
    "is redriven or discarded",
    ("host", "clock"): "check this host's time synchronisation; ages and times of gaps are wrong "
    "around that moment, deliveries are not",
}


def hint_for(part: str, state: str | None) -> str | None:
    """Return what to do about a cause of ``/readyz``; None for a state without advice."""
    return _HINTS.get((part, state)) or _HINTS.get((part, None))


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
    found += _of_clock(signs)
    return sorted(found, key=lambda trouble: trouble.level != "error")


def _of_service(facts: Facts, signs: Signs) -> Iterator[Trouble]:
    if not facts["running"]:
        yield Trouble("error", "service", "The service does not run.", _HINTS["service", None])
    elif facts["broker"] is None:
        text = "The service runs, but its HTTP address does not answer."
        yield Trouble("error", "service", text, _HINTS["service", "silent"])
    causes = facts.get("not_ready", ())
    if any(cause.get("state") == "stopping" for cause in causes):
        text = "The service is stopping."
        yield Trouble("warning", "service", text, _HINTS["service", "stopping"])
    for name in signs.stuck:
        text = f"A part of the service makes no progress: {name}."
        yield Trouble("error", "service", text, _HINTS["service", "stuck"])


def _of_discovery(facts: Facts) -> Iterator[Trouble]:
    known = {feed["table"] for feed in facts["feeds"]}
    for cause in facts.get("not_ready", ()):
        if cause["part"] == "discovery":
            text, since = "The tables of a database cannot be listed.", cause["since"]
            hint = _HINTS["discovery", None]
            yield Trouble("error", "discovery", text, hint, None, since, cause["error"])
        elif cause["part"] == "feed" and cause["table"] not in known:
            text = f"The table {cause['table']} was found; it has no feed yet."
            yield Trouble("warning", "feed", text, _HINTS["feed", "new"], cause["table"])


def _of_feed(feed: Facts) -> Iterator[Trouble]:
    table, state, since = feed["table"], feed["state"], feed["since"]
    if state == "lost":
        error = feed["last_error"]
        text = f"The feed of {table} is lost." if error else f"The feed of {table} is not open yet."
        hint = _HINTS["feed", "lost"]
        yield Trouble("error", "feed", text, hint, table, since, error)
    elif state == "initializing":
        text = f"The snapshot of {table} is being compared; its feed is not ready yet."
        detail = count(feed["snapshot_documents"], "document so far", "documents so far")
        yield Trouble("warning", "feed", text, _HINTS["feed", state], table, since, detail)
    elif state == "paused":
        text = f"The feed of {table} is paused, because the outbox is full."
        yield Trouble("error", "feed", text, _HINTS["feed", state], table, since)
    if (gap := feed["gap"]) is not None:
        text = f"Versions of documents of {table} may have been missed (cause: {gap['cause']})."
        yield Trouble("warning", "feed", text, _HINTS["feed", "gap"], table, gap["from"])


def _of_outbox(outbox: Facts, signs: Signs) -> Iterator[Trouble]:
    entries = outbox["pending"] + outbox["parked"]
    shares = {
        "outbox.max_entries": entries / outbox["max_entries"],
        "outbox.max_bytes": outbox["bytes"] / outbox["max_bytes"],
    }
    full = [name for name, share in shares.items() if outbox["full"] and share >= _STILL_FULL]
    near = [name for name, share in shares.items() if share >= NEAR_FULL]
    detail = f"{count(entries, 'entry', 'entries')}, {outbox['bytes']:,} bytes"
    if outbox["error"]:
        text = "The outbox cannot be written; the service keeps trying."
        yield Trouble("error", "outbox", text, _HINTS["outbox", None], detail=outbox["error"])
    if full:
        text = f"The outbox is full ({' and '.join(full)}): the feeds are paused."
        yield Trouble("error", "outbox", text, _HINTS["outbox", "full"], detail=detail)
    elif near:
        text = f"The outbox is over {NEAR_FULL:.0%} full ({' and '.join(near)})."
        yield Trouble("warning", "outbox", text, _HINTS["outbox", "full"], detail=detail)
    if outbox["full"] and not full:
        text = "The outbox's volume has too little room: the feeds are paused."
        yield Trouble("error", "outbox", text, _HINTS["outbox", "disk"])
    elif signs.is_disk_nearly_low:
        text = "The outbox's volume has little room: the feeds will pause soon."
        yield Trouble("warning", "outbox", text, _HINTS["outbox", "disk"])
    if outbox["parked"]:
        detail = count(outbox["parked"], "entry", "entries")
        text = "Entries are parked and not published."
        yield Trouble("warning", "outbox", text, _HINTS["outbox", "parked"], detail=detail)


def _of_broker(broker: Facts, outbox: Facts, signs: Signs) -> Iterator[Trouble]:
    since, error = broker["since"], broker["error"]
    if broker["blocked"]:
        text = "RabbitMQ takes no messages: an alarm blocks publishers."
        yield Trouble("error", "broker", text, _HINTS["broker", "blocked"], None, since, error)
    elif not broker["connected"]:
        text = "RabbitMQ is not connected."
        hint = _HINTS["broker", "disconnected"]
        yield Trouble("error", "broker", text, hint, None, since, error)
    elif broker["refused"]:
        text = "RabbitMQ refuses messages, or no queue takes them; they are retried."
        detail = count(broker["refused"], "message", "messages")
        yield Trouble("warning", "broker", text, _HINTS["broker", "refused"], detail=detail)
    elif outbox["pending"] and outbox["oldest_entry_age_seconds"] >= _LATE_SECONDS:
        text = f"RabbitMQ is connected, but entries wait longer than {_LATE_SECONDS:.0f} seconds."
        detail = f"the oldest for {duration(outbox['oldest_entry_age_seconds'])}"
        yield Trouble("warning", "broker", text, _HINTS["broker", "late"], detail=detail)
    if signs.unroutable and signs.on_unroutable == "drop":
        text = "Messages are dropped because no queue takes them."
        detail = f"{signs.unroutable:,.0f} in the last {duration(UNROUTABLE_SECONDS)}"
        yield Trouble("warning", "broker", text, _HINTS["broker", "unroutable"], detail=detail)


def _of_clock(signs: Signs) -> Iterator[Trouble]:
    moved = signs.clock_moved_seconds
    if abs(moved) >= _CLOCK_SECONDS:
        way = "forward (or this host slept)" if moved > 0 else "back"
        text = f"This host's clock was set {way} within the last hour."
        detail = f"by {duration(abs(moved))}"
        yield Trouble("warning", "host", text, _HINTS["host", "clock"], detail=detail)
