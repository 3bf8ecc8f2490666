"""Opening an outbox, its lock, and what errors of the database mean."""

import contextlib
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from replicator.errors import (
    OutboxInUse,
    OutboxMissing,
    OutboxUnavailable,
    OutboxUnusable,
)
from replicator.outbox.opening import open_database
from replicator.outbox.sqlite import connection as engine_module
from replicator.outbox.sqlite.connection import (
    open_engine,
    open_reader,
    open_writer,
)
from replicator.outbox.sqlite.failures import translated
from replicator.outbox.sqlite.lock import exclusively, user


def make(tmp_path: Path) -> Engine:
    engine = open_engine(tmp_path / "outbox.db", create=True)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE bytes (id INTEGER PRIMARY KEY, b BLOB)")
    return engine


def test_a_missing_outbox_is_made_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "outbox.db"
    with pytest.raises(OutboxMissing) as missing:
        open_engine(path)
    assert missing.value.hint
    open_engine(path, create=True)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxUnusable, match="cannot be created"):
        open_engine(tmp_path / "file" / "outbox.db", create=True)
    with (
        pytest.raises(OutboxUnusable, match="lock file"),
        exclusively(tmp_path / "file" / "outbox.db"),
    ):
        pytest.fail("it was taken")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("not a url", "not an SQLAlchemy URL"),
        ("postgresql://x/y", "cannot be on postgresql"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_a_url_that_cannot_be_an_outbox_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(OutboxUnusable, match=complaint):
        open_database(url)


def test_a_new_outbox_has_small_pages_and_every_one_the_same_length_of_log(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "older.db")) as older:
        older.execute("PRAGMA page_size = 4096")
        older.execute("PRAGMA auto_vacuum = INCREMENTAL")
        older.execute("CREATE TABLE t (a)")
    found = {}
    for name in ("older", "new"):
        with open_engine(tmp_path / f"{name}.db", create=True).begin() as connection:
            connection.exec_driver_sql("CREATE TABLE u (a)")
            found[name] = tuple(
                connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
                for pragma in ("page_size", "wal_autocheckpoint")
            )

    assert found == {"older": (4096, 4096), "new": (2048, 8192)}


def test_every_connection_writes_through_a_log_that_survives_a_power_cut(tmp_path: Path) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2, "foreign_keys": 1}
    with make(tmp_path).connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
    writer = open_writer(tmp_path / "outbox.db")
    written = {name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}
    writer.close()

    assert found == written == expected


def test_a_file_that_is_no_database_is_said_when_the_writer_opens_it(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"not a database, and longer than its header" * 40)

    with pytest.raises(OutboxUnusable, match="not a database"):
        open_writer(tmp_path / "outbox.db")


def test_pages_that_are_freed_are_not_written_once_more(tmp_path: Path) -> None:
    connection = make(tmp_path).raw_connection()
    cursor = connection.cursor()
    cursor.execute("INSERT INTO bytes (b) VALUES (zeroblob(1000000))")
    # The log starts again with the next commit, so that what it holds is of the deletion alone.
    cursor.execute("PRAGMA wal_checkpoint(RESTART)")
    cursor.execute("DELETE FROM bytes")

    _busy, frames, _moved = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    connection.close()

    assert 0 < frames < 20


def test_a_full_disk_rolls_back_and_passes_by_itself(tmp_path: Path) -> None:
    engine = make(tmp_path)
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
        connection.rollback()

        def write(many: int) -> None:
            with translated("here"), connection.begin():
                connection.execute(
                    text("INSERT INTO bytes (b) VALUES (zeroblob(1000))"), [{}] * many
                )

        write(2)
        with pytest.raises(OutboxUnavailable, match="here cannot be written now") as full:
            write(1000)
        assert full.value.hint
        assert connection.exec_driver_sql("SELECT count(*) FROM bytes").scalar() == 2
        connection.rollback()
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
        connection.rollback()
        write(1000)
        assert connection.exec_driver_sql("SELECT count(*) FROM bytes").scalar() == 1002


def test_a_locked_database_passes_by_itself_and_the_connection_stays_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 1)
    engine = make(tmp_path)
    with engine.connect() as connection:
        with (
            engine.begin(),
            pytest.raises(OutboxUnavailable, match="locked"),
            translated(),
            connection.begin(),
        ):
            pass
        with translated(), connection.begin():
            connection.exec_driver_sql("INSERT INTO bytes DEFAULT VALUES")

        assert connection.exec_driver_sql("SELECT count(*) FROM bytes").scalar() == 1


def test_a_reader_never_takes_the_write_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 1)
    engine = make(tmp_path)
    reader = open_reader(tmp_path / "outbox.db")

    with engine.begin(), reader.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM bytes").scalar() == 0


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, OutboxUnavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, OutboxUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, OutboxUnavailable),
        (sqlite3.SQLITE_READONLY, OutboxUnusable),
        (sqlite3.SQLITE_CORRUPT, OutboxUnusable),
        (sqlite3.SQLITE_NOTADB, OutboxUnusable),
        (sqlite3.SQLITE_ERROR, OutboxUnusable),
    ],
)
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_what_passes_by_itself_is_told_from_what_does_not(
    code: int, kind: type[Exception], *, is_wrapped: bool
) -> None:
    error = sqlite3.OperationalError("it broke")
    error.sqlite_errorcode = code

    with pytest.raises(kind, match="it broke") as caught, translated():
        raise OperationalError("statement", {}, error) if is_wrapped else error

    assert caught.value.__cause__ is not None


# The lock.

HOLD = """
import sys
from pathlib import Path
from replicator.outbox.sqlite.lock import exclusively
with exclusively(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_which_has_the_outbox(tmp_path: Path) -> None:
    database = tmp_path / "deep" / "outbox.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(OutboxInUse, match=f"process {holder.pid}") as refused,
            exclusively(database),
        ):
            pytest.fail("two have it")
        assert "--outbox" in str(refused.value.hint)
        assert user(database) == str(holder.pid)
        holder.kill()
        holder.wait()

    assert user(database) is None
    with exclusively(database), pytest.raises(OutboxInUse), exclusively(database):
        pytest.fail("two have it")
