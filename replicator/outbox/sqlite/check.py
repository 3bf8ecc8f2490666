"""The preflight of an outbox: whether a service could start on it. Changes nothing on disk."""

import fcntl
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import NullPool

from replicator.errors import OutboxOutdated, OutboxUnavailable, OutboxUnusable
from replicator.outbox.migrations import current, head, require_current
from replicator.outbox.sqlite.connection import database_path, translated
from replicator.outbox.sqlite.privacy import exposures

_LEAST_FREE_BYTES: Final = 16 * 1024 * 1024
_SQLITE_HEADER: Final = b"SQLite format 3\0"


class OutboxFacts(NamedTuple):
    """What the preflight found."""

    path: Path
    exists: bool
    schema: str | None  # None: a new outbox
    is_current: bool
    holder: str | None  # the process that uses it
    free_bytes: int
    exposures: list[str]  # what every user of this host may do with it


def lock_holder(url: str) -> str | None:
    """Return the process that runs on this outbox, as it wrote itself down; None when none does.

    Race: for an instant this holds a shared lock. A service that starts in just that instant
    would say that the outbox is in use; whoever runs it starts it again.
    """
    path = database_path(url)
    try:
        file = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(file)
    return None


def check_outbox(url: str) -> OutboxFacts:
    """Look whether the outbox can be written and has a schema that this program can use.

    Raises:
        OutboxUnusable: no permission, not a database, not an outbox.
        OutboxTooNew: a newer program wrote it.
        OutboxUnavailable: the disk is full, or it cannot be read now.
    """
    path = database_path(url)
    directory = next(parent for parent in path.parents if parent.exists())
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise OutboxUnusable(
            f"the directory of the outbox, {directory}, cannot be written",
            hint="set outbox.url to a place that this user may write",
        )
    free = shutil.disk_usage(directory).free
    if free < _LEAST_FREE_BYTES:
        raise OutboxUnavailable(
            f"the file system of the outbox, at {directory}, has {free:,} bytes left",
            hint="free disk space, or set outbox.url to a place that has some",
        )
    if not path.exists():
        return OutboxFacts(
            path,
            exists=False,
            schema=None,
            is_current=False,
            holder=None,
            free_bytes=free,
            exposures=exposures(path),
        )
    _check_file(path)
    schema, is_current = _schema(path)
    return OutboxFacts(
        path,
        exists=True,
        schema=schema,
        is_current=is_current,
        holder=lock_holder(url),
        free_bytes=free,
        exposures=exposures(path),
    )


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise OutboxUnusable(f"{path} is not a file", hint="name another outbox with --outbox")
    if not os.access(path, os.R_OK | os.W_OK):
        raise OutboxUnusable(
            f"the outbox at {path} cannot be read and written by this user",
            hint="give the file to the user that runs the replicator",
        )
    with path.open("rb") as file:
        header = file.read(len(_SQLITE_HEADER))
    if header and header != _SQLITE_HEADER:
        raise OutboxUnusable(
            f"{path} is not an SQLite database", hint="name another outbox with --outbox"
        )


def _schema(path: Path) -> tuple[str | None, bool]:
    # Opening a write-ahead log that is not there would make one; without it the file alone is
    # the whole database, and SQLite is told so.
    is_immutable = not path.with_name(path.name + "-wal").exists()
    uri = f"{path.as_uri()}?mode=ro" + ("&immutable=1" if is_immutable else "")
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=NullPool
    )
    with translated(path), engine.connect() as connection:
        schema = current(connection)
        if schema is None and inspect(connection).get_table_names():
            raise OutboxUnusable(
                f"the database at {path} is not an outbox: it has other tables",
                hint="name another file with --outbox",
            )
        try:
            require_current(connection)
        except OutboxOutdated:
            return schema, False
    return schema, True


def wanted_schema() -> str:
    """Return the schema that this program writes."""
    return head()
