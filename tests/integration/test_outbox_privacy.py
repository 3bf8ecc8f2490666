"""Nobody else on the host reads an outbox, whatever the umask is."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from replicator.outbox.sqlite.privacy import exposure, make_directory
from tests.support.replicator import ReplicatorProcess
from tests.support.wait import wait_until


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes_beside(outbox: Path) -> dict[str, int]:
    return {each.name: mode_of(each) for each in outbox.parent.iterdir()}


@pytest.mark.usefixtures("umask")
def test_all_that_the_service_makes_is_for_its_user_alone(
    replicator: ReplicatorProcess, connection: Any, database: str, tmp_path: Path
) -> None:
    replicator.outbox = tmp_path / "new" / "place" / "outbox.db"
    replicator.settings["OUTBOX__URL"] = f"sqlite:///{replicator.outbox}"
    replicator.start_and_wait()
    r.db(database).table("mytable").insert({"id": 1}).run(connection)
    wait_until(lambda: replicator.metric("replicator_changes_captured_total") == 1, 20, "a commit")

    assert modes_beside(replicator.outbox) == {
        "outbox.db": 0o600,
        "outbox.db-wal": 0o600,
        "outbox.db-shm": 0o600,
        "outbox.db.lock": 0o600,
    }
    assert mode_of(tmp_path / "new") == mode_of(tmp_path / "new" / "place") == 0o700
    # Commands open it as well, and so may make these files again.
    assert replicator.run("outbox", "stats").returncode == 0
    assert replicator.terminate() == 0
    assert replicator.run("status").returncode == 0
    assert set(modes_beside(replicator.outbox).values()) == {0o600}
    assert "open to other users" not in replicator.log()


def test_an_outbox_that_is_open_to_others_is_told_and_left_as_it_is(
    replicator: ReplicatorProcess,
) -> None:
    replicator.outbox.touch()
    replicator.outbox.chmod(0o644)
    replicator.outbox.parent.chmod(0o777)

    (said,) = [
        line
        for line in map(json.loads, replicator.run("check", "--json").stdout.splitlines())
        if line["part"] == "outbox"
    ]
    replicator.start_and_wait()
    (warning,) = [
        line
        for line in map(json.loads, replicator.log().splitlines())
        if line["event"] == "the outbox is open to other users"
    ]

    assert said["ok"]
    assert "every user may read outbox.db (mode 0644)" in said["message"]
    assert "every user may write its directory" in said["message"]
    assert warning["level"] == "warning"
    assert "every user may read outbox.db (mode 0644)" in warning["found"]
    assert "chmod 600" in said["message"]
    assert "chmod 600" in warning["hint"]
    assert mode_of(replicator.outbox) == 0o644


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", ".lock"])
def test_each_file_of_an_outbox_is_looked_at(tmp_path: Path, ending: str) -> None:
    outbox = tmp_path / "outbox.db"
    for each in ("", "-wal", "-shm", ".lock"):
        outbox.with_name(outbox.name + each).touch(mode=0o600)
    file = outbox.with_name(outbox.name + ending)
    assert exposure(outbox) is None

    for mode, words in (
        (0o660, None),
        (0o604, "read"),
        (0o602, "write"),
        (0o606, "read and write"),
    ):
        file.chmod(mode)
        found = exposure(outbox)
        if words is None:
            assert found is None
        else:
            assert found is not None
            assert found.found == [f"every user may {words} {file.name} (mode {mode:04o})"]


@pytest.mark.usefixtures("umask")
def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o775)

    make_directory(theirs / "ours" / "inner")
    make_directory(theirs / "ours" / "inner")

    assert mode_of(theirs) == 0o775
    assert mode_of(theirs / "ours") == mode_of(theirs / "ours" / "inner") == 0o700
