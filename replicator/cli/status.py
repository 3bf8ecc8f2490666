"""``replicator status``: feeds, outbox and broker at a glance."""

from typing import Annotated

import typer

from replicator import __version__
from replicator.cli import options, output, summary
from replicator.cli.live import live_facts
from replicator.cli.output import Facts
from replicator.cli.watch import watch
from replicator.config import Settings
from replicator.operators import listing
from replicator.outbox.opening import open_database
from replicator.web.facts import feed_facts, outbox_facts
from replicator.web.troubles import find_troubles


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
    settings = options.settings_from(config, {"http.listen": http, "outbox.url": outbox})
    if is_watching:
        watch(lambda: _facts(settings), as_json=as_json, count=count)
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
    output.print_rows(facts["feeds"], summary.FEEDS, as_json=False, empty="no feeds yet")


def _facts(settings: Settings) -> Facts:
    """Return the facts of the running service, or the same ones from the outbox alone."""
    limits = settings.outbox
    database = open_database(limits.url)
    with database.reading() as connection:
        identity = listing.outbox_id(connection)
        live = live_facts(settings.http.listen)
        # Another replicator may answer at this address: the outbox's id tells them apart.
        if live is not None and live["outbox"]["id"] == identity:
            return live
        totals = listing.count_totals(connection)
        feeds = listing.list_feeds(connection)
    is_running = database.user() is not None
    entries = totals.pending + totals.parked
    is_full = entries >= limits.max_entries or totals.bytes >= limits.max_bytes
    state = "its http address does not answer" if is_running else "not running"
    facts: Facts = {
        "version": __version__,
        "running": is_running,
        "ready": False,
        "not_ready": [{"part": "service", "state": state}],
        "outbox": outbox_facts(limits, identity, totals, is_full=is_full),
        "feeds": [feed_facts(feed) for feed in feeds],
        "broker": None,
    }
    return facts | {"troubles": [each._asdict() for each in find_troubles(facts)]}
