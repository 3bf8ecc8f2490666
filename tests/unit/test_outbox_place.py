"""An outbox is one file, whatever name it is opened by."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.errors import OutboxInUse, OutboxUnusable
from replicator.outbox.opening import open_database
from replicator.outbox.sqlite.lock import exclusively, lock_file
from replicator.outbox.sqlite.place import SameFile
from tests.support.command import Command
from tests.support.outbox import outbox


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """URLs of one outbox."""
    directory = tmp_path / "there"
    directory.mkdir()
    with outbox(directory):
        pass
    (tmp_path / "link.db").symlink_to(directory / "outbox.db")
    (tmp_path / "chain.db").symlink_to("link.db")
    (tmp_path / "away").symlink_to(directory)
    monkeypatch.chdir(tmp_path)
    return {
        "plain": f"sqlite:///{directory}/outbox.db",
        "link": f"sqlite:///{tmp_path}/link.db",
        "link to a link": f"sqlite:///{tmp_path}/chain.db",
        "linked directory": f"sqlite:///{tmp_path}/away/outbox.db",
        "relative": "sqlite:///there/outbox.db",
        "relative link": "sqlite:///link.db",
        "dots": f"sqlite:///{tmp_path}/away/../there/./outbox.db",
        "slashes": f"sqlite:///{tmp_path}//there//outbox.db",
        "driver": f"sqlite+pysqlite:///{tmp_path}/link.db",
    }


def test_only_one_replicator_runs_on_it_by_whatever_name(
    names: dict[str, str], cli: Command
) -> None:
    with open_database(names["plain"]).exclusively():
        for name, url in names.items():
            database = open_database(url)
            assert database.place == open_database(names["plain"]).place, name
            assert database.user() == str(os.getpid())
            with pytest.raises(OutboxInUse), database.exclusively():
                pytest.fail("two have it")
            assert cli("status", "--json", "--outbox", url).object["running"], name


def test_an_outbox_is_made_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "there" / "outbox.db")
    database = open_database(f"sqlite:///{tmp_path}/link.db")

    with database.exclusively():
        database.upgrade(create=True)

    assert database.place == str(tmp_path / "there" / "outbox.db")
    assert {each.name for each in (tmp_path / "there").iterdir()} >= {
        "outbox.db",
        "outbox.db.lock",
    }


def test_a_link_that_is_moved_does_not_move_a_database_that_is_open(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("first.db")
    database = open_database(f"sqlite:///{tmp_path}/link.db")
    with database.exclusively():
        (tmp_path / "link.db").unlink()
        (tmp_path / "link.db").symlink_to("second.db")
        database.upgrade(create=True)

    assert (tmp_path / "first.db").exists()
    assert not (tmp_path / "second.db").exists()


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").symlink_to("b.db")
    (tmp_path / "b.db").symlink_to("a.db")

    with pytest.raises(OutboxUnusable, match="symbolic links"):
        open_database(f"sqlite:///{tmp_path}/a.db")


def test_a_second_name_that_cannot_be_followed_is_refused(
    names: dict[str, str], tmp_path: Path, cli: Command
) -> None:
    (tmp_path / "hard.db").hardlink_to(tmp_path / "there" / "outbox.db")

    for url in (f"sqlite:///{tmp_path}/hard.db", names["plain"]):
        database = open_database(url)
        for use in (database.exclusively, database.reading, database.writing):
            with pytest.raises(OutboxUnusable, match="hard link") as refused, use():
                pytest.fail("it was opened")
            assert "remove the other name" in str(refused.value.hint)
        with pytest.raises(OutboxUnusable, match="hard link"):
            database.check()
        assert cli("outbox", "list", "--outbox", url).status == 2


MOUNT = 'touch "$0" && mount --bind "$1" "$0" && shift && exec "$@"'
USE = """
import sys
from replicator.errors import OutboxUnusable
from replicator.outbox.opening import open_database
try:
    with open_database("sqlite:///" + sys.argv[1]).reading():
        pass
except OutboxUnusable as err:
    print(err)
"""


def test_a_file_that_is_mounted_without_its_directory_is_refused(
    names: dict[str, str], tmp_path: Path
) -> None:
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot have a mount namespace")
    file, mounted = names["plain"].removeprefix("sqlite:///"), str(tmp_path / "a b.db")

    done = subprocess.run(
        [*unshare, "sh", "-c", MOUNT, mounted, file, sys.executable, "-c", USE, mounted],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert "is a file that is mounted by itself" in done.stdout


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_lock_that_was_removed_holds_nobody_off_and_is_noticed(
    tmp_path: Path, *, is_replaced: bool
) -> None:
    database = tmp_path / "outbox.db"
    database.touch()
    with exclusively(database):
        place = SameFile(database, lock_file(database))
        place.require()
        lock_file(database).rename(tmp_path / "away")
        if is_replaced:
            lock_file(database).touch()

        with pytest.raises(OutboxUnusable, match="removed or replaced"):
            place.require()
