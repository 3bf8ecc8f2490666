"""What is published: the wheel, and the archive of sources that the same wheel is built of."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from replicator import __version__
from replicator.outbox.migrations import migrations_directory

PROJECT = migrations_directory().parent
_NAME = f"replicator-{__version__}"


def build(project: Path, target: str, directory: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = (path for path in directory.iterdir() if path.is_file())
    return built


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(PROJECT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of sources, unpacked."""
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(PROJECT, "sdist", directory)) as archive:
        archive.extractall(directory, filter="data")
    return directory / _NAME


def sources(*paths: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


def test_the_wheel_has_the_program_and_its_migrations_and_no_more(wheel: Path) -> None:
    migrations = {f"replicator/{name}" for name in sources("migrations")}
    information = f"{_NAME}.dist-info"
    assert {name for name in content(wheel) if not name.startswith(information)} == (
        sources("replicator") | migrations
    )
    entry = content(wheel)[f"{information}/entry_points.txt"].decode()
    assert "replicator = replicator.__main__:main" in entry


def test_the_archive_of_sources_has_what_the_wheel_is_built_of(unpacked: Path) -> None:
    files = {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()
    }
    beside = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert files == sources("replicator", "migrations") | beside


def test_the_archive_of_sources_builds_the_same_wheel(
    unpacked: Path, wheel: Path, tmp_path: Path
) -> None:
    assert content(build(unpacked, "wheel", tmp_path)) == content(wheel)
