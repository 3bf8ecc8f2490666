"""Packages of the npm registry, installed once into the user's cache."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def npm_directory(package: str, version: str) -> Path:
    """Return a directory whose ``node_modules`` has the package; else skip, or fail in CI."""
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    if shutil.which("node") is None or shutil.which("npm") is None:
        give_up(f"node and npm are missing: {package} cannot run")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "replicator" / f"npm-{package}-{version}"
    if not (directory / "node_modules" / package).is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        install = subprocess.run(
            ["npm", "install", "--no-save", "--no-audit", "--no-fund", f"{package}@{version}"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if install.returncode != 0:
            give_up(f"npm could not install {package}: {install.stderr.strip()[-300:]}")
    return directory
