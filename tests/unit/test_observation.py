"""What is said of the service, from parts whose state the test sets."""

import json
import re
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.config import load_settings
from replicator.domain.feed_state import FeedState
from replicator.metrics import Metrics
from replicator.observation import Observation
from replicator.outbox.port import Totals
from replicator.outbox.sqlite import room
from replicator.publisher.publisher import PublisherStatus
from replicator.web.server import _ROUTES

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 -- as shutil's, made in one line


class Parts:
    """The parts of a service that is well."""

    def __init__(self, outbox: Path) -> None:
        self.metrics = Metrics()
        self.metrics.register_table("db.t")
        self.totals = Totals(0, 0, 0, None)
        self.store: Any = SimpleNamespace(
            status=SimpleNamespace(
                outbox_id="abcd2345",
                feeds={},
                totals=self.totals,
                is_full=False,
                error=None,
                error_at=None,
                stepped_at=time.monotonic(),
            )
        )
        self.broker = PublisherStatus(True, False, 3, 0, 0, None, 1e9, time.monotonic())  # noqa: FBT003
        publisher: Any = SimpleNamespace(status=lambda: self.broker)
        following: Any = SimpleNamespace(
            readers=(), is_connected=True, discovery=None, wanted=frozenset()
        )
        settings = load_settings(
            environ={
                "REPLICATOR_TABLES": "db.t",
                "REPLICATOR_OUTBOX__URL": f"sqlite:///{outbox}",
            }
        )
        self.observation = Observation(settings, self.metrics, self.store, publisher, following)

    def lose_broker(self, error: str) -> None:
        self.broker = self.broker._replace(is_connected=False, error=error)

    def texts(self) -> list[str]:
        return [each["text"] for each in self.observation.facts()["troubles"]]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "outbox.db")


class Clocks:
    """Both clocks, which go only when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A whole second: sums of others are not exact where the exponent changes.
        self.monotonic, self.wall = float(int(time.monotonic())), 1.7e9
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)
        monkeypatch.setattr(time, "time", lambda: self.wall)

    def go(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_the_limits_of_the_outbox_can_be_scraped(parts: Parts) -> None:
    limits, value = parts.observation.facts()["outbox"], parts.metrics.registry.get_sample_value
    assert value("replicator_outbox_max_entries") == limits["max_entries"] == 1_000_000
    assert value("replicator_outbox_max_bytes") == limits["max_bytes"] == 4 * 2**30


def test_a_service_that_is_well_has_no_troubles_and_an_empty_history(parts: Parts) -> None:
    assert parts.observation.facts()["ready"]
    assert parts.texts() == []
    history = parts.observation.history()
    assert (history["at"], history["rates"]["tables"]) == ([], {})


def test_samples_are_taken_each_ten_seconds_however_often_it_is_asked(
    parts: Parts, clocks: Clocks
) -> None:
    for _ in range(100):
        parts.observation.sample()
        clocks.go(0.5)

    history = parts.observation.history()
    assert history["age_seconds"] == [40.0, 30.0, 20.0, 10.0, 0.0]
    assert history["in_flight"] == [3] * 5
    lengths = {len(value) for value in history.values() if isinstance(value, list)}
    assert lengths == {5}


def test_rates_are_those_of_the_tables(parts: Parts, clocks: Clocks) -> None:
    parts.observation.sample()
    parts.metrics.changes_captured.labels("db.t", "create", "feed").inc(30)
    parts.metrics.changes_captured.labels("db.t", "delete", "resync").inc(20)
    parts.metrics.entries_confirmed.labels("db.t", "create").inc(10)
    clocks.go(10)
    parts.observation.sample()

    history = parts.observation.history()
    assert history["rates"]["tables"] == {
        "db.t": {"captured_per_second": 5.0, "confirmed_per_second": 1.0}
    }
    assert (history["captured"], history["confirmed"]) == ([0, 50], [0, 10])


def test_messages_that_were_dropped_are_told_for_ten_minutes(parts: Parts, clocks: Clocks) -> None:
    parts.observation.sample()
    parts.metrics.unroutable.labels("db.t").inc(7)
    for _ in range(30):
        clocks.go(20)
        parts.observation.sample()
    assert "Messages are dropped because no queue takes them." in parts.texts()

    clocks.go(20)
    parts.observation.sample()
    assert "Messages are dropped because no queue takes them." not in parts.texts()


def test_a_clock_that_was_set_back_is_told(parts: Parts, clocks: Clocks) -> None:
    parts.observation.sample()
    clocks.go(10)
    clocks.wall -= 7200
    parts.observation.sample()

    assert parts.texts() == ["This host's clock was set back within the last hour."]


def test_a_loop_that_stands_still_is_told(parts: Parts, clocks: Clocks) -> None:
    clocks.go(61)

    assert parts.texts() == ["A part of the service makes no progress: store."]


def test_a_volume_with_little_room_is_told(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 2 * 10**8))

    assert parts.texts() == ["The outbox's volume has little room: the feeds will pause soon."]


def test_a_volume_that_is_gone_is_no_error_of_the_page(parts: Parts, tmp_path: Path) -> None:
    tmp_path.rmdir()

    assert parts.texts() == []


def test_causes_of_the_probe_say_what_to_do(parts: Parts) -> None:
    parts.lose_broker("connection refused")

    facts = parts.observation.readiness()

    (cause,) = facts["not_ready"]
    assert not facts["ready"]
    assert (cause["part"], cause["state"]) == ("broker", "disconnected")
    assert "replicator check" in cause["hint"]
    assert facts["degraded"] == "buffering"
    (trouble,) = parts.observation.facts()["troubles"]
    assert trouble["hint"] == cause["hint"]


def _errors_of_broker(parts: Parts, error: str) -> list[Any]:
    parts.lose_broker(error)
    facts = parts.observation.facts()
    return [facts["broker"]["error"], facts["not_ready"][0]["error"]]


def _errors_of_outbox(parts: Parts, error: str) -> list[Any]:
    parts.store.status.error, parts.store.status.error_at = error, 1
    facts = parts.observation.facts()
    return [facts["outbox"]["error"], facts["not_ready"][0]["error"]]


def _errors_of_feed(parts: Parts, error: str) -> list[Any]:
    feed = SimpleNamespace(
        name="db.t",
        state=FeedState.LOST,
        state_since=1,
        ready_at=None,
        changed_at=None,
        captured=0,
        compared=0,
        skipped=0,
        open_gap=None,
        guard=None,
        last_error=error,
        last_error_at=1,
    )
    parts.store.status.feeds = {1: feed}
    facts = parts.observation.facts()
    return [facts["feeds"][0]["last_error"], facts["not_ready"][0]["error"]]


@pytest.mark.parametrize("errors_of", [_errors_of_broker, _errors_of_outbox, _errors_of_feed])
def test_an_error_that_is_shown_has_no_password_and_an_end(
    parts: Parts, errors_of: Callable[[Parts, str], list[Any]]
) -> None:
    error = "cannot reach amqp://user:secret@mq.internal/shop: " + "x" * 100_000

    shown = errors_of(parts, error)

    troubles = [each["detail"] for each in parts.observation.facts()["troubles"]]
    assert len(shown + troubles) == 3
    for each in shown + troubles:
        assert each.startswith("cannot reach amqp://user:***@mq.internal/shop: xxx")
        assert len(each) == 1000


# docs/http.md.


def _examples() -> dict[str, Any]:
    """Return the example of each path."""
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    sections = re.findall(r"^## `(/\w*)`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    found = {
        path: [json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]
        for path, section in sections
    }
    return {path: blocks[0] if blocks else None for path, blocks in found.items()}


def test_the_documentation_has_every_path() -> None:
    assert _examples().keys() == _ROUTES.keys()


def test_the_documentation_has_every_key(parts: Parts, clocks: Clocks) -> None:
    _errors_of_feed(parts, "x")
    parts.lose_broker("x")
    parts.observation.sample()
    clocks.go(10)
    parts.observation.sample()
    examples = _examples()

    status, facts = examples["/status"], parts.observation.facts()
    assert status.keys() == facts.keys() - {"not_ready"}
    for part in ("outbox", "broker"):
        assert status[part].keys() == facts[part].keys()
    for part in ("feeds", "troubles"):
        assert status[part][0].keys() == facts[part][0].keys()
    history = parts.observation.history()
    assert examples["/history"].keys() == history.keys()
    (rate,), (example,) = (
        each["rates"]["tables"].values() for each in (history, examples["/history"])
    )
    assert example.keys() == rate.keys()
    assert examples["/livez"].keys() == parts.observation.liveness().keys()


def test_the_documented_cause_is_a_real_one(parts: Parts) -> None:
    parts.lose_broker("x")
    facts = parts.observation.readiness()
    example = _examples()["/readyz"]

    assert example.keys() == facts.keys()
    assert example["not_ready"][0].keys() == facts["not_ready"][0].keys()
    assert example["not_ready"][0]["hint"] == facts["not_ready"][0]["hint"]
