"""``replicator status --watch``: the same facts, again and again, and how fast they change."""

import datetime as dt
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replicator.cli import output
from replicator.cli.rates import Facts, Forecast, Rates, Sample, Speedometer, forecast
from replicator.errors import TransientError

_EVERY_SECONDS: Final = 1.0
# A refresh that is dear (a large backlog is counted without its service) shall not be all we do.
_MOST_SHARE: Final = 0.25
_HEADINGS: Final = {"service": "replicator", "outbox": "outbox", "broker": "broker"}

Take = Callable[[], tuple[Facts, float | None]]
"""Returns the facts of ``/status``, and what was confirmed since the service started."""
Words = Callable[[Facts], Sequence[str]]
"""Says in a line each how service, outbox and broker are."""
Troubles = Callable[[Facts], Iterable[Text]]
"""Says in a line each what is wrong right now, and what to do."""
_Show = Callable[[Facts, Rates | None], None]


def watch(
    take: Take, words: Words, troubles: Troubles, *, as_json: bool, count: int | None
) -> None:
    """Show the facts each second until Ctrl-C, or so many times.

    Raises:
        ReplicatorError: the facts could not be had the first time. Later only what does not pass
            by itself ends it.
    """
    speedometer = Speedometer()
    shown = 0
    try:
        with _display(words, troubles, as_json=as_json) as (show, complain):
            while True:
                started = time.monotonic()
                try:
                    facts, confirmed = take()
                except TransientError as err:
                    if not shown:
                        raise
                    complain(str(err))
                else:
                    speedometer.add(Sample(time.monotonic(), facts, confirmed))
                    show(facts, speedometer.rates())
                shown += 1
                if shown == count:
                    return
                took = time.monotonic() - started
                time.sleep(max(_EVERY_SECONDS - took, took / _MOST_SHARE - took, 0.0))
    except KeyboardInterrupt:
        return


@contextmanager
def _display(
    words: Words, troubles: Troubles, *, as_json: bool
) -> Iterator[tuple[_Show, Callable[[str], None]]]:
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
                lambda facts, rates: live.update(
                    _screen(facts, rates, words, troubles), refresh=True
                ),
                lambda text: live.update(Text(f"{_clock()}  {text}"), refresh=True),
            )


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clock() -> str:
    return dt.datetime.now().astimezone().strftime("%H:%M:%S")


def _with_rates(facts: Facts, rates: Rates | None) -> Facts:
    where = forecast(facts["outbox"], rates)
    shown: Any = None
    if rates is not None:
        shown = {
            "seconds": round(rates.seconds, 3),
            "captured_per_second": {t: round(rate, 3) for t, rate in rates.captured.items()},
            "confirmed_per_second": _rounded(rates.confirmed),
            "entries_per_second": round(rates.entries, 3),
            "bytes_per_second": round(rates.bytes, 3),
        }
    return {
        "at": _now(),
        **facts,
        "rates": shown,
        "forecast": {"state": where.state, "seconds": _rounded(where.seconds)},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _a_second(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:,.1f}/s"


def _forecast_words(where: Forecast) -> str:
    after = output.human_seconds(where.seconds)
    return {
        "unknown": "not known yet",
        "empty": "empty",
        "steady": "steady",
        "drains": f"drains, empty in {after}",
        "fills": f"fills, full in {after}",
        "full": "full: feeds are paused",
    }[where.state]


def _line(facts: Facts, rates: Rates | None) -> str:
    """Return everything on one line, for a file or a pipe."""
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
        f"oldest {output.human_seconds(outbox['oldest_entry_age_seconds'])}",
        f"in flight {'?' if broker is None else broker['in_flight']}",
        _forecast_words(forecast(outbox, rates)),
    ]
    parts += [f"{feed['table']} {feed['state']}" for feed in facts["feeds"]]
    return "  ".join(parts)


def _screen(facts: Facts, rates: Rates | None, words: Words, troubles: Troubles) -> Group:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("table", "state", "captured", "total", "documents", "gap"):
        is_number = name in {"captured", "total", "documents"}
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for feed in facts["feeds"]:
        table.add_row(
            Text(feed["table"]),
            Text(feed["state"], "green" if feed["state"] == "ready" else "yellow"),
            _a_second(None if rates is None else rates.captured.get(feed["table"])),
            f"{feed['captured']:,}",
            f"{feed['snapshot_documents']:,}",
            Text(f"{feed['gap']['cause']} since {feed['gap']['from']}" if feed["gap"] else ""),
        )
    lines = [
        Text.assemble((f"{name:11}", "bold"), said)
        for name, said in zip(_HEADINGS.values(), words(facts), strict=True)
    ]
    confirmed = _a_second(rates and rates.confirmed)
    lines.append(Text.assemble(("confirmed  ", "bold"), confirmed))
    lines.append(
        Text.assemble(("backlog    ", "bold"), _forecast_words(forecast(facts["outbox"], rates)))
    )
    return Group(
        *lines, *troubles(facts), Text(""), table, Text(""), Text(f"{_clock()}  Ctrl-C ends", "dim")
    )
