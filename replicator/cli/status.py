"""``replicator status``: feeds, outbox and broker at a glance."""

import json
import re
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from replicator import __version__
from replicator.cli import options, output
from replicator.cli.watch import watch
from replicator.config import HostPort, Settings
from replicator.observation import feed_facts
from replicator.outbox import inspect
from replicator.outbox.capture import Feed
from replicator.outbox.check import lock_holder
from replicator.web.troubles import find_troubles

_ANSWER_SECONDS: Final = 2.0
_CONFIRMED: Final = "replicator_entries_confirmed_total"
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- read, not bound

Facts = dict[str, Any]


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
        watch(lambda: _measured(settings), _words, as_json=as_json, count=count)
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
    live = _live(settings.http.listen)
    # The default address may be another replicator's: only the outbox's id tells them apart.
    if live is not None and live["outbox"]["id"] == identity:
        return live
    return _recorded(settings)


def _measured(settings: Settings) -> tuple[Facts, float | None]:
    """Return the facts, and what the running service has counted as confirmed."""
    facts = _facts(settings)
    if facts["broker"] is None:
        return facts, None
    text = (_asked(settings.http.listen, "metrics") or b"").decode("utf-8", "replace")
    found = re.findall(rf"^{_CONFIRMED}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return facts, sum(map(float, found)) if text else None


def _live(listen: HostPort | None) -> Facts | None:
    """Ask the running service; None when there is none at this address."""
    try:
        facts = json.loads(_asked(listen, "status") or b"null")
    except ValueError:
        return None
    is_ours = isinstance(facts, dict) and isinstance(facts.get("outbox"), dict)
    return facts if is_ours and "id" in facts["outbox"] and "feeds" in facts else None


def _asked(listen: HostPort | None, path: str) -> bytes | None:
    if listen is None:
        return None
    address = HostPort(_ANY_ADDRESS.get(listen.host, listen.host), listen.port)
    # Never through a proxy that the environment names: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/{path}", timeout=_ANSWER_SECONDS) as answer:
            return bytes(answer.read())
    except (OSError, HTTPException):
        return None


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
