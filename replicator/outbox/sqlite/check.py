"""Checks whether a service could start on an outbox. Changes nothing on disk."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from replicator.errors import OutboxOutdated, OutboxUnavailable, OutboxUnusable
from replicator.outbox.migrations import current, head, require_current
from replicator.outbox.port import Preflight
from replicator.outbox.sqlite.connection import open_unchanging
from replicator.outbox.sqlite.failures import translated
from replicator.outbox.sqlite.lock import user
from replicator.outbox.sqlite.place import require_one_name
from replicator.outbox.sqlite.privacy import exposure

_MIN_FREE_BYTES: Final = 16 * 1024 * 1024
_SQLITE_HEADER: Final = b"SQLite format 3\0"


def preflight(path: Path) -> Preflight:
    """Check that the outbox can be written and has a schema that this program can use.

    Raises:
        OutboxUnusable: no permission, not a database, or not an outbox.
        OutboxTooNew: a newer program wrote it.
        OutboxUnavailable: the disk is full, or it cannot be read now.
    """
    require_one_name(path)
    directory = next(parent for parent in path.parents if parent.exists())
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise OutboxUnusable(
            f"the directory of the outbox, {directory}, cannot be written",
            hint="set outbox.url to a place that this user can write",
        )
    free = shutil.disk_usage(directory).free
    if free < _MIN_FREE_BYTES:
        raise OutboxUnavailable(
            f"the file system of the outbox, at {directory}, has {free:,} bytes left",
            hint="free disk space, or set outbox.url to a place with more",
        )
    exists = path.exists()
    if exists:
        _check_file(path)
    return Preflight(
        exists,
        schema=_schema(path) if exists else None,
        wanted_schema=head(),
        user=user(path) if exists else None,
        free_bytes=free,
        exposure=exposure(path),
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


def _schema(path: Path) -> str | None:
    with translated(path), open_unchanging(path).connect() as connection:
        with contextlib.suppress(OutboxOutdated):  # the service will migrate it when it starts
            require_current(connection)
        return current(connection)
