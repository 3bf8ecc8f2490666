"""Opens an outbox's database file.

The file has a write-ahead log, so that the commands can read while the service writes, and
``synchronous=FULL``, so that a commit survives a power cut.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from replicator.errors import OutboxMissing, OutboxUnusable
from replicator.outbox.sqlite import statements
from replicator.outbox.sqlite.failures import translated
from replicator.outbox.sqlite.place import require_one_name
from replicator.outbox.sqlite.privacy import FILE_MODE, make_directory

_BUSY_TIMEOUT_MS: Final = 5000
# The system caches the file too: a larger cache was not faster, and it never shrinks.
_CACHE_KIB: Final = 4 * 1024
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
# A commit writes each page that it touches, usually for a row or two: half of SQLite's default of
# 4 KB makes a small commit 5% faster (docs/performance.md).
_PAGE_BYTES: Final = 2048
# SQLite's default of 1,000 pages is full after a few thousand changes. Most pages are soon written
# again, when their entries are settled: with fewer checkpoints such a page is copied only once.
_CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
_AUTO_VACUUM_INCREMENTAL: Final = 2


def open_engine(path: Path, *, create: bool = False) -> Engine:
    """Return an engine on an outbox; every connection has the settings that it needs.

    Each transaction takes the write lock when it begins. With ``create``, a missing file is made
    (mode 0600).

    Raises:
        OutboxMissing: the file is missing and ``create`` is false.
        OutboxUnusable: the file cannot be made.
    """
    engine = open_reader(path, create=create)
    event.listen(engine, "begin", _begin_immediately)
    return engine


def open_reader(path: Path, *, create: bool = False) -> Engine:
    """Return an engine that begins no transaction: it never blocks the service's writes.

    Where this user cannot write, nothing is written, and changes raise `OutboxUnusable`.

    Raises what `open_engine` does.
    """
    require_one_name(path)
    if not path.exists():
        if not create:
            raise OutboxMissing(
                f"there is no outbox at {path}",
                hint="`replicator run` creates it; --outbox names another",
            )
        _create_file(path)
    if _is_read_only(path):
        return open_unchanging(path)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _is_read_only(path: Path) -> bool:
    """Return whether this user cannot write an existing database or the files beside it."""
    return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK))


def open_unchanging(path: Path) -> Engine:
    """Return an engine that reads a database and writes nothing, not even a file beside it.

    Three cases, told by the files beside it (sqlite.org/wal.html):

    - ``-wal`` and ``-shm``: a service may be writing. SQLite can read along with it.
    - ``-wal`` alone, as in a copy that cannot be written: nobody has it open. The index of the
      log, which would be in ``-shm``, is made in memory, which SQLite does where nobody else may
      have the database. Where it can be written, another program may have locked it: SQLite looks.
    - no ``-wal``: the file is the whole database, and nobody has it open.
    """
    has_log, has_index = (path.with_name(path.name + end).exists() for end in ("-wal", "-shm"))
    uri = f"{path.as_uri()}?mode=ro"
    if not has_log:
        uri += "&immutable=1"
    is_copy = has_log and not has_index and _is_read_only(path)
    if is_copy:
        uri += "&vfs=unix-none"  # no locks: to take one would need a file that can be written

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_TIMEOUT_MS / 1000, isolation_level=None
        )
        if is_copy:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()
        return connection

    return create_engine(
        URL.create("sqlite", database=str(path)), creator=connect, poolclass=NullPool
    )


def _create_file(path: Path) -> None:
    """Create an empty file that only its owner can read: it will contain documents."""
    try:
        make_directory(path.parent)
        path.touch(mode=FILE_MODE)
    except OSError as err:
        raise OutboxUnusable(
            f"the outbox cannot be created at {path}: {err.strerror}",
            hint="set outbox.url to a place that this user can write",
        ) from err


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy begins the transactions; the DBAPI must not begin them a second time.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    # Only before the first table exists: it lets free pages be given back later, in small steps.
    # To set it again would write, and a command that only reads would wait for the service's lock.
    if cursor.execute("PRAGMA auto_vacuum").fetchone() != (_AUTO_VACUUM_INCREMENTAL,):
        cursor.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    (page_bytes,) = cursor.execute("PRAGMA page_size").fetchone()
    cursor.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_BYTES // page_bytes}")
    cursor.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    cursor.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # Debian builds SQLite to write zeros over every freed page, which would write each entry twice
    # more. With FAST, what is deleted within a page is still overwritten.
    cursor.execute("PRAGMA secure_delete = FAST")
    cursor.close()


def _begin_immediately(connection: Connection) -> None:
    connection.exec_driver_sql(statements.BEGIN)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the store's connection to an existing outbox.

    The caller begins its transactions. To be used by one thread at a time.

    Raises:
        OutboxUnavailable, OutboxUnusable: see `translated`.
    """
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            _configure_sqlite(connection, None)
        except BaseException:
            connection.close()
            raise
        return connection
