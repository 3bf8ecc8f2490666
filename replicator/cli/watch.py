"""``replicator status --watch``: the facts each second, with their rates."""

import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from replicator.cli import output, summary
from replicator.cli.output import Facts
from replicator.cli.rates import Forecast, Rates, Speedometer, forecast
from replicator.domain.instants import shown
from replicator.domain.words import duration
from replicator.errors import TransientError

_EVERY_SECONDS: Final = 1.0
# Max share of the time for refreshing, which is slow when a large backlog is counted without its
# service.
_MAX_SHARE: Final = 0.25

Take = Callable[[], tuple[Facts, float | None]]
"""Returns the facts of ``/status``, and the entries confirmed since the service started."""
_Show = Callable[[Facts, Rates | None], None]
_Complain = Callable[[str], None]


def watch(take: Take, *, as_json: bool, count: int | None) -> None:
    """Show the facts each second until Ctrl-C, or ``count`` times.

    Raises:
        ReplicatorError: The facts cannot be read the first time. Later a transient error is shown
            and only a permanent one is raised.
    """
    speedometer = Speedometer()
    times = 0
    try:
        with _display(as_json=as_json) as (show, complain):
            while True:
                started = time.monotonic()
                try:
                    facts, confirmed = take()
                except TransientError as err:
                    if not times:
                        raise
                    complain(str(err))
                else:
                    speedometer.add(time.monotonic(), facts, confirmed)
                    show(facts, speedometer.rates())
                times += 1
                if times == count:
                    return
                took = time.monotonic() - started
                time.sleep(max(_EVERY_SECONDS - took, took / _MAX_SHARE - took, 0.0))
    except KeyboardInterrupt:
        return


@contextmanager
def _display(*, as_json: bool) -> Iterator[tuple[_Show, _Complain]]:
    """Give what shows the facts, and what says why there are none this time."""
    if as_json:
        yield (
            lambda facts, rates: output.print_line(_with_rates(facts, rates)),
            lambda text: output.print_line({"at": _now(), "error": text}),
        )
    elif not sys.stdout.isatty():
        yield (
            lambda facts, rates: _print(_line(facts, rates)),
            lambda text: _print(f"{_clock()}  {text}"),
        )
    else:
        with Live(console=output.console(), auto_refresh=False) as live:
            yield (
                lambda facts, rates: live.update(_screen(facts, rates), refresh=True),
                lambda text: live.update(Text(f"{_clock()}  {text}"), refresh=True),
            )


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _now() -> str | None:
    return shown(time.time_ns() // 1000)


def _clock() -> str:
    return dt.datetime.now().astimezone().strftime("%H:%M:%S")


def _with_rates(facts: Facts, rates: Rates | None) -> Facts:
    where = forecast(facts["outbox"], rates)
    speeds = None
    if rates is not None:
        speeds = {
            "seconds": round(rates.seconds, 3),
            "captured_per_second": {t: round(rate, 3) for t, rate in rates.captured.items()},
            "confirmed_per_second": _rounded(rates.confirmed),
            "entries_per_second": round(rates.entries, 3),
            "bytes_per_second": round(rates.bytes, 3),
        }
    return {
        "at": _now(),
        **facts,
        "rates": speeds,
        "forecast": {"state": where.state, "seconds": _rounded(where.seconds)},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _a_second(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:,.1f}/s"


def _forecast_words(where: Forecast) -> str:
    after = duration(where.seconds or 0.0)
    return {
        "unknown": "not known yet",
        "empty": "empty",
        "steady": "steady",
        "drains": f"drains, empty in {after}",
        "fills": f"fills, full in {after}",
        "full": "full: feeds are paused",
    }[where.state]


def _line(facts: Facts, rates: Rates | None) -> str:
    """Return one line, for a file or a pipe."""
    outbox, broker = facts["outbox"], facts["broker"]
    state = "ready" if facts["ready"] else "not ready" if facts["running"] else "not running"
    captured = None if rates is None else sum(rates.captured.values())
    parts = [
        _clock(),
        state,
        f"captured {_a_second(captured)}",
        f"confirmed {_a_second(rates and rates.confirmed)}",
        f"pending {outbox['pending']:,}",
        f"parked {outbox['parked']:,}",
        f"oldest {duration(outbox['oldest_entry_age_seconds'])}",
        f"in flight {'?' if broker is None else broker['in_flight']}",
        _forecast_words(forecast(outbox, rates)),
    ]
    parts += [f"{feed['table']} {feed['state']}" for feed in facts["feeds"]]
    return "  ".join(parts)


def _screen(facts: Facts, rates: Rates | None) -> Group:
    captured = {} if rates is None else rates.captured
    return Group(
        *summary.lines(facts),
        summary.line("confirmed", _a_second(rates and rates.confirmed)),
        summary.line("backlog", _forecast_words(forecast(facts["outbox"], rates))),
        output.table(
            facts["feeds"],
            [
                "table",
                ("state", _coloured_state),
                ("#captured", lambda feed: _a_second(captured.get(feed["table"]))),
                ("#total", lambda feed: f"{feed['captured']:,}"),
                ("#documents", lambda feed: f"{feed['snapshot_documents']:,}"),
                ("gap", summary.gap_words),
            ],
        ),
        Text(f"{_clock()}  Ctrl-C stops", "dim"),
    )


def _coloured_state(feed: Facts) -> Text:
    return Text(feed["state"], "green" if feed["state"] == "ready" else "yellow")
