"""`status --watch`: rates and forecasts of made-up moments, and what is shown of an outbox."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from replicator.cli import status, watch
from replicator.cli.rates import Speedometer, forecast
from replicator.errors import OutboxUnavailable
from tests.support.command import Command, command_line
from tests.support.feed_elements import initial
from tests.support.outbox import outbox

FEED = {"table": "db.t", "state": "ready", "captured": 0, "snapshot_documents": 0, "gap": None}
OUTBOX = {
    "id": "abcdefgh",
    "pending": 0,
    "parked": 0,
    "bytes": 0,
    "oldest_entry_age_seconds": 0.0,
    "max_entries": 1000,
    "max_bytes": 1_000_000,
    "full": False,
    "error": None,
}


def facts(captured: int = 0, *, running: bool = True, **of_outbox: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "running": running,
        "ready": running,
        "outbox": OUTBOX | of_outbox,
        "feeds": [FEED | {"captured": captured}],
        "broker": None,
    }


Moment = tuple[float, dict[str, Any], float | None]


def measured(*moments: Moment) -> dict[str, Any] | None:
    """Return the rates at the last moment."""
    speedometer, rates = Speedometer(), None
    for at, known, confirmed in moments:
        broker = None if confirmed is None else {"confirmed": confirmed}
        rates = speedometer.measure(at, known | {"broker": broker})
    return rates


def test_rates_are_changes_a_second() -> None:
    rates = measured(
        (10.0, facts(100, pending=50, parked=1, bytes=1000), 7.0),
        (12.0, facts(120, pending=40, parked=2, bytes=3000), 37.0),
    )

    assert rates == {
        "seconds": 2.0,
        "captured_per_second": {"db.t": 10.0},
        "confirmed_per_second": 15.0,
        "pending_per_second": -5.0,
        "entries_per_second": -4.5,
        "bytes_per_second": 1000.0,
    }


def test_one_moment_has_no_rate() -> None:
    assert measured((1.0, facts(), 1.0)) is None
    assert measured(*[(1.0, facts(), 1.0)] * 2) is None


def test_rates_are_of_the_last_ten_seconds() -> None:
    found = measured(*((float(n), facts(n * n), None) for n in range(100)))

    assert found is not None
    assert (found["seconds"], found["confirmed_per_second"]) == (10.0, None)
    assert found["captured_per_second"] == {"db.t": (99**2 - 89**2) / 10}


@pytest.mark.parametrize(
    "later",
    [
        (2.0, facts(), 4.0),  # the service was started again
        (2.0, facts(), None),  # it does not answer
        (2.0, facts(running=False), 6.0),
        (2.0, facts(id="other"), 6.0),
    ],
)
def test_what_does_not_belong_together_has_no_rate(later: Moment) -> None:
    assert measured((1.0, facts(), 5.0), later) is None


def test_a_table_that_is_new_has_captured_nothing_before() -> None:
    new = facts(5)
    new["feeds"].append(FEED | {"table": "db.new", "captured": 9})

    found = measured((1.0, facts(3), 0.0), (2.0, new, 0.0))
    assert found is not None
    assert found["captured_per_second"] == {"db.t": 2.0, "db.new": 0.0}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {}, ("empty", None)),
        ({"pending": 5}, {"pending": 5}, ("steady", None)),
        ({"pending": 30}, {"pending": 20}, ("drains", 2.0)),
        ({"pending": 0}, {"pending": 10, "parked": 90}, ("fills", 9.0)),
        ({"bytes": 0}, {"bytes": 500_000, "pending": 1}, ("fills", 1.0)),
        ({"parked": 9}, {"parked": 9}, ("empty", None)),
        ({}, {"pending": 1000, "full": True}, ("full", None)),
        (
            {"max_entries": 10**9},
            {"max_entries": 10**9, "pending": 1, "max_bytes": 10**9},
            ("steady", None),
        ),
    ],
)
def test_a_forecast_goes_on_as_it_went(
    before: dict[str, Any], now: dict[str, Any], expected: tuple[str, float | None]
) -> None:
    rates = measured((1.0, facts(**before), 0.0), (2.0, facts(**now), 0.0))

    assert forecast(facts(**now)["outbox"], rates) == expected
    assert forecast(OUTBOX, None) == ("unknown", None)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    monkeypatch.setattr(watch, "_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(watch, "_MAX_SHARE", 1.0)
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    with outbox(tmp_path) as box:
        box.step(box.opened(), box.batch(initial({"id": 1})), box.ready())
        with command_line(monkeypatch, capsys) as run:
            yield run


def test_programs_get_an_object_each_time(cli: Command) -> None:
    done = cli("status", "--watch", "--json", "--count", "3")

    assert done.status == 0, done.err
    first, second, third = done.objects
    assert (first["rates"], first["forecast"]["state"]) == (None, "unknown")
    assert third["rates"]["captured_per_second"] == {"db.t": 0.0}
    assert third["rates"]["confirmed_per_second"] is None
    assert third["forecast"] == {"state": "steady", "seconds": None}
    assert first["at"] <= second["at"] <= third["at"]
    plain = json.loads(cli("status", "--json").out)
    assert plain.keys() == third.keys() - {"at", "rates", "forecast"}


def test_without_a_terminal_it_is_a_line_each_time(cli: Command) -> None:
    done = cli("status", "--watch", "--count", "2")

    assert done.status == 0
    first, second = done.out.splitlines()
    assert "not running  captured ?  confirmed ?  pending 1  parked 0" in first
    assert second.endswith("in flight ?  steady  db.t ready")


def test_the_count_is_only_for_watching(cli: Command) -> None:
    assert cli("status", "--count", "2").status == 2


def test_ctrl_c_is_quiet(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    done = cli("status", "--watch")

    assert (done.status, done.err) == (0, "")
    assert len(done.out.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_what_passes_by_itself_is_said_and_waited_for(
    arguments: list[str], cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = status._facts, []

    def fails_once(settings: Any) -> Any:
        calls.append(settings)
        if len(calls) == 2:
            raise OutboxUnavailable("the outbox is locked")
        return real(settings)

    monkeypatch.setattr(status, "_facts", fails_once)
    done = cli("status", "--watch", "--count", "3", *arguments)

    assert done.status == 0
    assert "the outbox is locked" in done.out.splitlines()[1]
    assert "db.t" in done.out.splitlines()[2]


def test_a_first_time_that_fails_is_an_error(
    cli: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_: Any) -> Any:
        raise OutboxUnavailable("the outbox is locked")

    assert cli("status", "--watch", "--outbox", f"sqlite:///{tmp_path}/none.db").status == 2
    monkeypatch.setattr(status, "_facts", fails)
    done = cli("status", "--watch", "--count", "2")
    assert (done.status, done.out, done.err) == (1, "", "error: the outbox is locked\n")


def test_on_a_terminal_it_is_one_picture() -> None:
    rates = measured((1.0, facts(0, pending=100), 0.0), (2.0, facts(50, pending=50), 99.0))
    written = StringIO()
    trouble = {"level": "error", "text": "RabbitMQ is not connected.", "hint": "start it"}
    trouble |= {"detail": None, "since": None}
    now = facts(50, pending=50) | {"troubles": [trouble], "not_ready": [{"state": "stopped"}]}
    now |= {"rates": rates, "forecast": {"state": "drains", "seconds": 1.0}}
    screen = watch._screen(now)
    Console(file=written, width=120).print(screen)

    shown = written.getvalue()
    assert "confirmed  99.0/s" in shown
    assert "drains, empty in 1.0 s" in shown
    assert "outbox     50 pending" in shown
    assert "error      RabbitMQ is not connected. — start it" in shown
    assert "db.t ready 50.0/s 50 0" in " ".join(shown.split())
