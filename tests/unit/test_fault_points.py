"""Fault points: off unless ordered, a closed list, each in one place. They die in tests/faults."""

import ast
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator import fault_points
from replicator.errors import SettingsInvalid
from replicator.fault_points import VARIABLE, FaultPoint, arm, reach, reach_later
from tests.support.command import Command, command_line

PACKAGE = Path(fault_points.__file__).parent


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """What would have been killed."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    yield sent
    fault_points._armed.clear()


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    with command_line(monkeypatch, capsys) as run:
        yield run


def uses(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "FaultPoint"
        ):
            yield node.attr


def test_each_point_has_one_place_in_the_code() -> None:
    files = set(PACKAGE.rglob("*.py")) - {Path(fault_points.__file__)}
    found = Counter(name for path in files for name in uses(path))
    assert found == Counter(point.name for point in FaultPoint)


def test_nothing_is_armed_without_the_variable(kills: list[tuple[int, int]]) -> None:
    arm({"PATH": "/bin", "REPLICATOR_FAULT_POINT": "committed"})
    for _ in range(3):
        reach(*FaultPoint)
    assert kills == []


def test_a_point_that_is_reached_later_costs_no_callback_unless_it_is_armed(
    kills: list[tuple[int, int]],
) -> None:
    later: list[Callable[[], None]] = []
    reach_later(FaultPoint.AFTER_WRITE, later.append)
    assert later == []
    arm({VARIABLE: "after-write"})
    reach_later(FaultPoint.AFTER_WRITE, later.append)
    assert kills == []
    later[0]()

    assert kills == [(os.getpid(), signal.SIGKILL)]


def test_a_point_kills_when_it_is_reached_so_often_as_ordered_and_says_so(
    kills: list[tuple[int, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    arm({VARIABLE: "committed:3"})
    for _ in range(2):
        reach(*FaultPoint)
    reach(FaultPoint.SETTLED)
    assert kills == []
    reach(FaultPoint.COMMITTED)
    assert kills == [(os.getpid(), signal.SIGKILL)]
    assert capfd.readouterr().err.endswith("killed at fault point committed\n")


def test_without_a_number_the_first_time_counts(kills: list[tuple[int, int]]) -> None:
    arm({VARIABLE: "feed-ready"})
    reach(FaultPoint.FEED_READY)
    assert len(kills) == 1


@pytest.mark.parametrize(
    "order", ["", "commited", "COMMITTED", ":1", "committed:", "committed:0", "committed:-1"]
)
def test_a_wrong_order_is_refused(order: str, kills: list[tuple[int, int]]) -> None:
    with pytest.raises(SettingsInvalid, match="FAULT_POINT"):
        arm({VARIABLE: order})
    reach(*FaultPoint)
    assert kills == []


def test_a_wrong_order_ends_the_start_before_anything_is_opened(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "commited")
    done = command("run", "--table", "d.t", "--outbox", f"sqlite:///{tmp_path}/outbox.db")
    assert done.status == 2, done.err
    assert "'commited' is not a fault point" in done.err
    assert list(tmp_path.iterdir()) == []
