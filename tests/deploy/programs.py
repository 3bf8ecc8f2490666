"""The programs that judge what is deployed, and what they say.

Those from PyPI are in the environment of the tests; Prometheus is Debian's package.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
GRAFANA = PROJECT / "grafana"
OVERLAY = DEPLOY / "kubernetes/overlays/production"
OVERLAYS = (OVERLAY, DEPLOY / "kubernetes/overlays/billing")

Done = subprocess.CompletedProcess[str]


def program(name: str) -> str:
    """Return the program's path; else skip, and in CI fail."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{name} is not installed: requirements-dev.txt, or Debian's package prometheus")
    return found


def ask(name: str, *arguments: str | Path, stdin: str | None = None, cwd: Path = PROJECT) -> Done:
    """Run a program; its exit status is for the caller."""
    return subprocess.run(
        [program(name), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=100,
        check=False,
    )


def said(done: Done) -> str:
    return done.stdout + done.stderr


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rendered(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what kustomize makes of a directory, by kind."""
    done = ask("kubectl", "kustomize", directory)
    assert done.returncode == 0, said(done)
    resources = list(yaml.safe_load_all(done.stdout))
    by_kind = {resource["kind"]: resource for resource in resources}
    assert len(by_kind) == len(resources), "two of a kind"
    return by_kind
