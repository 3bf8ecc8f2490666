"""Opens an outbox's database file, and says what its errors mean.

The file has a write-ahead log, so that the commands can read while the service writes, and
``synchronous=FULL``, so that a commit survives a power cut. Errors of the database become this
project's own here, so that callers know what passes by itself and what does not.
"""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, MultipleResultsFound
from sqlalchemy.pool import NullPool

from replicator.errors import OutboxMissing, OutboxUnavailable, OutboxUnusable
from replicator.outbox.sqlite import statements
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
_DRIVERS: Final = ("sqlite", "sqlite+pysqlite")

# SQLite's primary result codes (sqlite.org/rescode.html) of failures that can pass by themselves:
# BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
_PASSING: Final = frozenset({5, 6, 7, 9, 10, 13, 14, 15})
_READONLY: Final = 8
_PRIMARY_CODE_MASK: Final = 0xFF


def database_path(url: URL) -> Path:
    """Return the file of an SQLite outbox.

    Raises:
        OutboxUnusable: an outbox cannot be at this URL.
    """
    if url.drivername not in _DRIVERS or url.host or url.username:
        raise OutboxUnusable(
            "the outbox url names a driver, a user or a host, which SQLite does not have",
            hint="set outbox.url to sqlite:///PATH",
        )
    if not url.database or url.database == ":memory:":
        raise OutboxUnusable(
            "an outbox in memory would lose what was captured when the process ends",
            hint="set outbox.url to sqlite:///PATH on a local or block volume",
        )
    if url.query or url.database.startswith("file:"):
        raise OutboxUnusable(
            "the outbox url has parameters, which are not supported",
            hint="set outbox.url to sqlite:///PATH",
        )
    if _is_directory(url.database):
        raise OutboxUnusable(
            f"the outbox cannot be at {url.database}: that is a directory",
            hint="set outbox.url to a file in it: sqlite:///PATH/replicator.db",
        )
    return Path(url.database).absolute()


def _is_directory(path: str) -> bool:
    try:
        # Not `Path.is_dir`: it answers False for a name with a NUL byte, which is an error here.
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False  # the lock or the file cannot be made there: the attempt will say so
    except (OSError, ValueError) as err:
        raise OutboxUnusable(
            f"the outbox cannot be at {path!r}: {getattr(err, 'strerror', None) or err}",
            hint="set outbox.url to a place that this user can write",
        ) from err


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

    Raises what `open_engine` does.
    """
    if not path.exists():
        if not create:
            raise OutboxMissing(
                f"there is no outbox at {path}",
                hint="`replicator run` creates it; --outbox names another",
            )
        _create_file(path)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


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


@contextmanager
def translated(path: object = None) -> Iterator[None]:
    """Turn errors of the database into this project's own.

    Raises:
        OutboxUnavailable: the failure passes by itself (disk full, locked, I/O error). The
            transaction was rolled back, so it is safe to repeat.
        OutboxUnusable: it does not pass (not a database, corrupt, read-only).
    """
    try:
        yield
    except DatabaseError as err:
        raise _translate(err.orig, _at(path)) from err
    except sqlite3.DatabaseError as err:
        raise _translate(err, _at(path)) from err
    except UnicodeDecodeError as err:
        # SQLite's message quotes the damaged schema, and Python's module decodes it as text.
        raise OutboxUnusable(
            f"the outbox{_at(path)} is damaged: {err.reason} in SQLite's error message",
            hint="move the file away: a new outbox starts with a new snapshot",
        ) from err
    except MultipleResultsFound as err:
        raise OutboxUnusable(
            f"the outbox{_at(path)} is damaged: it has two rows where only one can be",
            hint="move the file away: a new outbox starts with a new snapshot",
        ) from err


def _at(path: object) -> str:
    return f" at {path}" if path else ""


def _translate(error: Any, where: str) -> OutboxUnavailable | OutboxUnusable:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE_MASK
    error = " ".join(str(error).split())  # it may quote a damaged schema with its line ends
    if code in _PASSING:
        return OutboxUnavailable(
            f"the outbox{where} cannot be written now: {error}",
            hint="free disk space, or end the program that keeps it locked",
        )
    if code == _READONLY:
        return OutboxUnusable(
            f"the outbox{where} is read-only: {error}",
            hint="allow this user to write the file and its directory",
        )
    return OutboxUnusable(
        f"the outbox{where} cannot be used: {error}",
        hint="name another file with --outbox, or move this one away: a new outbox starts with a "
        "new snapshot",
    )
