"""The npm packages of the JavaScript peers, installed once into the user's cache."""

import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = {"amqplib": "2.3.1", "rethinkdb": "2.4.2"}
_INSTALL_SECONDS = 120


def node() -> str | None:
    """Return the program ``node``; None if it or npm is missing."""
    return shutil.which("node") if shutil.which("npm") else None


def packages() -> Path:
    """Return the ``node_modules`` that has the peers' packages, for ``NODE_PATH``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = [f"{name}@{version}" for name, version in sorted(PACKAGES.items())]
    directory = cache / "replicator" / ("npm-bench-" + "-".join(wanted))
    modules = directory / "node_modules"
    if not all((modules / name / "package.json").exists() for name in PACKAGES):
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--no-save", "--no-audit", "--no-fund", *wanted],
            cwd=directory,
            check=True,
            timeout=_INSTALL_SECONDS,
            stdout=subprocess.DEVNULL,
        )
    return modules
