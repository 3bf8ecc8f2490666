"""An outbox that this user cannot write: on a volume that is mounted read-only, or a copy.

Permissions do not bind root, so the directory is mounted read-only in a mount namespace of the
commands' own.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicator.domain.model import Failure, Outcomes
from tests.support.feed_elements import add, initial
from tests.support.outbox import Outbox, outbox

_UNSHARE = ["unshare", "--map-root-user", "--mount"]
_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
# All commands in one process: to start one takes longer than what is tested.
_DRIVER = """
import contextlib, io, json, sys
from replicator.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    out.flush()
    print(json.dumps([status, out.buffer.getvalue().decode(), err.getvalue()]))
"""
READING = [
    ["outbox", "list", "--json"],
    ["outbox", "show", "1", "--json"],
    ["outbox", "stats", "--json"],
    ["outbox", "export"],
    ["outbox", "history", "--json"],
    ["outbox", "redrive", "1", "--dry-run", "--json"],
    ["feed", "list", "--json"],
    ["feed", "gaps", "--json"],
    ["status", "--json"],
    ["migrate", "--json"],
]
WRITING = [
    ["outbox", "redrive", "1"],
    ["outbox", "redrive", "--all"],
    ["outbox", "park", "2"],
    ["outbox", "discard", "1", "--yes"],
    ["feed", "resync", "db.t"],
    ["feed", "baseline", "db.t", "--yes"],
]


@pytest.fixture(scope="module", autouse=True)
def _can_mount() -> None:
    if subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot have a mount namespace")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """A parked entry and a pending one, which are still in the log."""
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(initial({"id": 1}), initial({"id": 2})), made.ready())
        made.step(outcomes=[Outcomes(parked=[Failure(1, "too_large", "it is too large")])])
        yield made


def copied(box: Outbox, to: Path, *endings: str) -> Path:
    to.mkdir()
    for ending in endings:
        shutil.copy(f"{box.path}{ending}", f"{to / 'outbox.db'}{ending}")
    return to / "outbox.db"


def read_only(path: Path, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Run commands on an outbox that they cannot write; returns status and texts of each."""
    given = json.dumps([[*command, "--outbox", f"sqlite:///{path}"] for command in commands])
    ended = subprocess.run(
        [*_UNSHARE, "sh", "-c", _MOUNT, str(path.parent), sys.executable, "-c", _DRIVER, given],
        capture_output=True,
        text=True,
        check=False,
        env={"REPLICATOR_HTTP__LISTEN": "off", "PYTHONPATH": str(Path.cwd())},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["in use", "copy", "copy with its log", "copy of all files"])
def test_what_only_reads_works_and_leaves_nothing_behind(
    kind: str, box: Outbox, tmp_path: Path
) -> None:
    match kind:
        case "in use":
            path = box.path
        case "copy":
            box.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            path = copied(box, tmp_path / "copy", "")
        case "copy with its log":
            path = copied(box, tmp_path / "copy", "", "-wal")
        case _:
            path = copied(box, tmp_path / "copy", "", "-wal", "-shm")
    before = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}

    done = read_only(path, READING)

    assert [(status, err) for status, _, err in done] == [(0, "")] * len(READING)
    entries = [json.loads(line) for line in done[0][1].splitlines()]
    assert [entry["state"] for entry in entries] == ["parked", "pending"]
    after = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    assert after.keys() == before.keys()
    assert after["outbox.db"] == before["outbox.db"]
    assert after.get("outbox.db-wal") == before.get("outbox.db-wal")


def test_a_reader_sees_what_a_service_writes_meanwhile(box: Outbox) -> None:
    for n in (3, 4):
        box.step(box.batch(add({"id": n})))
        ((status, out, _),) = read_only(box.path, [["outbox", "stats", "--json"]])
        assert (status, sum(json.loads(line)["entries"] for line in out.splitlines())) == (0, n)


@pytest.mark.parametrize("is_in_use", [True, False])
def test_what_writes_is_refused_and_says_why(
    box: Outbox, tmp_path: Path, *, is_in_use: bool
) -> None:
    path = box.path if is_in_use else copied(box, tmp_path / "copy", "", "-wal")

    for status, _, err in read_only(path, WRITING):
        assert status == 2
        assert f"the outbox at {path} is read-only" in err
        assert "hint: allow this user to write the file and its directory" in err


def test_a_service_is_refused_and_says_why(box: Outbox) -> None:
    ((status, _, err),) = read_only(box.path, [["run", "--table", "db.t"]])

    assert status == 2
    assert "Read-only file system" in err


def test_a_file_of_another_kind_is_said_to_be_that(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()

    ((status, _, err),) = read_only(tmp_path / "x.db", [["outbox", "list"]])

    assert status == 2
    assert "is not an outbox" in err
