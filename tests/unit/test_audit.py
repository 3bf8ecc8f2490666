"""The audit of dependencies: a weakness fails it, and silence is no answer."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_WEAK = {
    "name": "requests",
    "version": "2.19.0",
    "vulns": [{"id": "X-1", "fix_versions": ["2.20"]}],
}
_GOOD = {"name": "pika", "version": "1.4.4", "vulns": []}
_UNKNOWN = {"name": "msgspec", "skip_reason": "not found"}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    place = Path(__file__).parents[2] / "tools" / "audit.py"
    spec = importlib.util.spec_from_file_location("audit", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def service(tool: ModuleType, *report: Any, control: Any = _WEAK) -> Callable[[Path], Any]:
    """Return a service that says this of our packages, and that of the control."""

    def ask(requirements: Path) -> Any:
        is_control = tool.CONTROL in requirements.read_text()
        return [control] if is_control else list(report)

    return ask


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    place = tmp_path / "requirements.txt"
    place.write_text("pika==1.4.4\n")
    return place


def test_no_known_weakness_is_good(tool: ModuleType, ours: Path) -> None:
    assert tool.audit(ours, service(tool, _GOOD, _GOOD)) == (
        0,
        "none of 2 packages has a known weakness",
    )


@pytest.mark.parametrize("other", [_GOOD, _UNKNOWN])
def test_a_weakness_fails_whatever_else_is_said(tool: ModuleType, ours: Path, other: Any) -> None:
    status, text = tool.audit(ours, service(tool, other, _WEAK))

    assert status == 1
    assert "requests 2.19.0: X-1, fixed in 2.20" in text


@pytest.mark.parametrize(
    ("report", "control"),
    [
        ([_GOOD, _UNKNOWN], _WEAK),
        ([_UNKNOWN], _UNKNOWN),  # a mirror without advisories
        ([_GOOD], {**_WEAK, "vulns": []}),
        ([], _WEAK),
    ],
)
def test_silence_is_told_apart_from_good(
    tool: ModuleType, ours: Path, report: list[Any], control: Any
) -> None:
    status, text = tool.audit(ours, service(tool, *report, control=control))

    assert status == 75
    assert "could not run" in text


def test_no_network_is_told_apart_from_a_weakness(
    tool: ModuleType, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool.sys, "executable", "/bin/false")  # fails, and prints no report

    status, text = tool.audit(ours)

    assert status == 75
    assert "pip-audit gave no report" in text
