"""``replicator status``: feeds, outbox and broker at a glance."""

import time
from typing import Annotated, Final

import typer

from replicator import __version__
from replicator.cli import options, output, summary
from replicator.cli.live import live_counts, live_facts
from replicator.cli.output import Facts
from replicator.cli.watch import watch
from replicator.config import Settings
from replicator.domain.feed import Feed
from replicator.observation import feed_facts
from replicator.operators import listing
from replicator.outbox.opening import open_database
from replicator.web.troubles import find_troubles

_CONFIRMED: Final = "replicator_entries_confirmed_total"


def status(
    *,
    is_watching: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh each second, with rates, until Ctrl-C.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="N", min=1, help="With --watch: stop after N times."),
    ] = None,
    as_json: options.AsJson = False,
    http: options.HttpListen = None,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Show feeds, outbox and broker, and what is wrong with what to do about it.

    The figures are live when the service runs and its HTTP address answers; otherwise they are
    what the outbox has recorded.
    """
    settings = options.settings_from(config, http__listen=http, outbox__url=outbox)
    if is_watching:
        watch(lambda: _measured(settings), as_json=as_json, count=count)
        return
    if count is not None:
        raise typer.BadParameter("--count needs --watch")
    facts = _facts(settings)
    if as_json:
        output.print_object(facts)
    else:
        _print(facts)


def _print(facts: Facts) -> None:
    for line in summary.lines(facts):
        output.say(line)
    output.print_rows(
        facts["feeds"],
        [
            "table",
            "state",
            "since",
            ("last change", lambda feed: feed["changed_at"]),
            ("#captured", lambda feed: f"{feed['captured']:,}"),
            ("#documents", lambda feed: f"{feed['snapshot_documents']:,}"),
            ("gap", summary.gap_words),
            ("…last error", lambda feed: feed["last_error"] if feed["state"] == "lost" else None),
        ],
        as_json=False,
        empty="no feeds yet",
    )


def _facts(settings: Settings) -> Facts:
    with open_database(settings.outbox.url).reading() as connection:
        identity = listing.outbox_id(connection)
    live = live_facts(settings.http.listen)
    # Another replicator may answer at this address: the outbox's id tells them apart.
    if live is not None and live["outbox"]["id"] == identity:
        return live
    return _recorded(settings)


def _measured(settings: Settings) -> tuple[Facts, float | None]:
    """Return the facts, and how many entries were confirmed since the service started."""
    facts = _facts(settings)
    if facts["broker"] is None:
        return facts, None
    confirmed = live_counts(settings.http.listen, _CONFIRMED)
    return facts, None if confirmed is None else sum(confirmed.values())


def _recorded(settings: Settings) -> Facts:
    """Return the same facts from the outbox alone."""
    limits = settings.outbox
    database = open_database(limits.url)
    with database.reading() as connection:
        totals = listing.totals(connection)
        found = listing.list_feeds(connection)
        identity = listing.outbox_id(connection)
    oldest = totals.oldest_captured_at
    age = max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0
    is_running = database.user() is not None
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
        facts["since"] = None  # the outbox does not record it for every state
    return facts
