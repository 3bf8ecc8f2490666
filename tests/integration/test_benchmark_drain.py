"""The benchmark works: all programs deliver, and the file has each of them."""

import importlib.util
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from replicator_sandbox.host import find_rabbitmq

from benchmarks import npm, programs

_ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_each_program_of_the_drain_delivers_and_is_in_the_file(tmp_path: Path) -> None:
    if find_rabbitmq() is None:
        pytest.skip("rabbitmq-server is not installed")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "drain"),
            *("--rounds", "1", "--scale", "0.01", "--output", str(tmp_path)),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "results.json").read_text()
    (run,) = json.loads(text)
    arrived = {
        each["program"]: each["figures"]["arrived"]
        for each in run["works"]["drain"]["measurements"]
    }
    wanted = {
        kind.name: 800 if kind.publishes else 0
        for kind in programs.ALL
        if "javascript" not in kind.name or npm.node()
    }
    assert arrived == wanted
    # Of CPU time so little work may use less than the kernel counts.
    rates = [g for g in run["works"]["drain"]["goals"] if g["figure"] == "per_second"]
    assert rates
    assert all(goal["value"] for goal in rates) or not npm.node()
    is_drawn = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "drain.svg").exists() is is_drawn
    for private in (str(tmp_path), str(_ROOT), platform.node()):
        assert private not in text
