"""``replicator status``: feeds, outbox and broker at a glance."""

import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.text import Text

from replicator import __version__
from replicator.cli import options, output
from replicator.cli.live import Facts, live_counts, live_facts
from replicator.cli.watch import watch
from replicator.config import Settings
from replicator.domain.feed import Feed
from replicator.observation import feed_facts
from replicator.operators import listing as inspect
from replicator.outbox.sqlite.check import lock_holder
from replicator.web.troubles import find_troubles

_CONFIRMED: Final = "replicator_entries_confirmed_total"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("status", epilog="Example: replicator status --watch")(status)


def status(
    *,
    is_watching: Annotated[
        bool, typer.Option("--watch", "-w", help="Again each second, with rates; Ctrl-C ends.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="With --watch: end after so many.")
    ] = None,
    as_json: options.AsJson = False,
    http: options.HttpListen = None,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Show feeds, outbox and broker at a glance.

    Live figures when the service runs and its HTTP address answers; else what the outbox has.
    """
    settings = options.settings_from(config, http__listen=http, outbox__url=outbox)
    if is_watching:
        watch(lambda: _measured(settings), _words, _trouble_lines, as_json=as_json, count=count)
        return
    if count is not None:
        raise typer.BadParameter("--count goes with --watch")
    facts = _facts(settings)
    if as_json:
        output.print_object(facts)
    else:
        _print(facts)


def _facts(settings: Settings) -> Facts:
    with inspect.reading(settings.outbox.url) as connection:
        identity = inspect.outbox_id(connection)
    live = live_facts(settings.http.listen)
    # The default address may be another replicator's: only the outbox's id tells them apart.
    if live is not None and live["outbox"]["id"] == identity:
        return live
    return _recorded(settings)


def _measured(settings: Settings) -> tuple[Facts, float | None]:
    """Return the facts, and what the running service has counted as confirmed."""
    facts = _facts(settings)
    if facts["broker"] is None:
        return facts, None
    confirmed = live_counts(settings.http.listen, _CONFIRMED)
    return facts, None if confirmed is None else sum(confirmed.values())


def _recorded(settings: Settings) -> Facts:
    """Return the same facts from the outbox alone."""
    limits = settings.outbox
    with inspect.reading(limits.url) as connection:
        totals = inspect.totals(connection)
        found = inspect.list_feeds(connection)
        identity = inspect.outbox_id(connection)
    oldest = totals.oldest_captured_at
    age = max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0
    is_running = lock_holder(limits.url) is not None
    state = "its http address does not answer" if is_running else "not running"
    facts: Facts = {
        "version": __version__,
        "running": is_running,
        "ready": False,
        "not_ready": [{"part": "service", "state": state}],
        "outbox": {
            "id": identity,
            "pending": totals.pending,
            "parked": totals.parked,
            "bytes": totals.bytes,
            "oldest_entry_age_seconds": round(age, 3),
            "max_entries": limits.max_entries,
            "max_bytes": limits.max_bytes,
            "full": totals.pending + totals.parked >= limits.max_entries
            or totals.bytes >= limits.max_bytes,
            "error": None,
        },
        "feeds": [recorded_feed(feed) for feed in found],
        "broker": None,
    }
    facts["troubles"] = [each._asdict() for each in find_troubles(facts)]
    return facts


def recorded_feed(feed: Feed) -> Facts:
    """Return a feed as the outbox has it, in the form of ``/status``."""
    facts = feed_facts(feed)
    if not feed.state_since:
        facts["since"] = None  # the outbox does not have it for every state
    return facts


def _print(facts: Facts) -> None:
    out = output.console()
    for name, value in zip(("replicator", "outbox", "broker"), _words(facts), strict=True):
        out.print(Text.assemble((f"{name:11}", "bold"), value), soft_wrap=True)
    for line in _trouble_lines(facts):
        out.print(line, soft_wrap=True)
    output.print_table(
        ["table", "state", "since", "last change", "#captured", "#documents", "gap", "…last error"],
        (
            (
                feed["table"],
                feed["state"],
                feed["since"],
                feed["changed_at"],
                f"{feed['captured']:,}",
                f"{feed['snapshot_documents']:,}",
                f"{feed['gap']['cause']} since {feed['gap']['from']}" if feed["gap"] else None,
                feed["last_error"] if feed["state"] == "lost" else None,
            )
            for feed in facts["feeds"]
        ),
        empty="no feeds yet",
    )


def _trouble_lines(facts: Facts) -> Iterator[Text]:
    """Say what is wrong right now, and what to do, as the page does."""
    for trouble in facts.get("troubles", ()):  # an older service that still runs may have none
        colour = "bold red" if trouble["level"] == "error" else "bold yellow"
        beside = [trouble["detail"], trouble["since"] and f"since {trouble['since']}"]
        told = f" ({', '.join(filter(None, beside))})" if any(beside) else ""
        yield Text.assemble(
            (f"{trouble['level']:11}", colour), f"{trouble['text']}{told} — {trouble['hint']}"
        )


def _words(facts: Facts) -> tuple[str, str, str]:
    return (
        _service_words(facts),
        _outbox_words(facts["outbox"]),
        _broker_words(facts["broker"]),
    )


def _service_words(facts: Facts) -> str:
    if facts["broker"] is None:
        (part,) = facts["not_ready"]
        return f"{facts['version']}, {part['state']}: this is what the outbox has"
    if facts["ready"]:
        return f"{facts['version']}, running, ready"
    parts = ", ".join(
        " ".join(str(part[key]) for key in ("part", "table", "state") if part.get(key))
        for part in facts.get("not_ready", ())
    )
    return f"{facts['version']}, running, not ready: {facts.get('degraded', '')} ({parts})"


def _outbox_words(outbox: Facts) -> str:
    words = f"{outbox['pending']:,} pending, {outbox['parked']:,} parked"
    words += f", {output.human_bytes(outbox['bytes'])}"
    if outbox["pending"]:
        words += f", oldest {output.human_seconds(outbox['oldest_entry_age_seconds'])}"
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
