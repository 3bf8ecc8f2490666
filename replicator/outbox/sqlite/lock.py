"""One replicator for each outbox: a lock file beside the database.

Two writers would give out the same entry numbers and delete each other's entries. The lock is
the kernel's (``flock``), so it ends with the process, however that ends.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from replicator.errors import OutboxInUse, OutboxUnusable
from replicator.outbox.sqlite.place import require_one_name
from replicator.outbox.sqlite.privacy import FILE_MODE, make_directory

# `user` holds a shared lock for an instant, so a start tries more than once.
_PATIENCE_SECONDS: Final = 1.0
_ATTEMPT_EVERY_SECONDS: Final = 0.05


@contextmanager
def exclusively(database: Path) -> Iterator[None]:
    """Hold the right to run on an outbox.

    Raises:
        OutboxInUse: another process has it.
        OutboxUnusable: the lock file cannot be made, or the database has two names.
    """
    require_one_name(database)
    path = lock_file(database)
    try:
        make_directory(path.parent)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as err:
        raise OutboxUnusable(
            f"the outbox's lock file {path} cannot be opened: {err.strerror}",
            hint="allow this user to write the directory of the outbox",
        ) from err
    # The file stays when it is closed: to remove it would be a race.
    with os.fdopen(file, "r+b", buffering=0):
        _lock(file)
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield


def user(database: Path) -> str | None:
    """Return the process that runs on an outbox, as it wrote into the file; None: no process does.

    Race: for an instant this holds a shared lock. A service that starts just then waits for it.
    """
    try:
        file = os.open(lock_file(database), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # nobody has made one, or only a user whose files this one cannot read
    with os.fdopen(file, "rb", buffering=0):
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _written(file)
    return None


def lock_file(database: Path) -> Path:
    """Return the path of the lock file."""
    return database.with_name(database.name + ".lock")


def _lock(file: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if time.monotonic() >= deadline or not isinstance(err, BlockingIOError):
                raise OutboxInUse(
                    f"the outbox is in use by another replicator (process {_written(file)})",
                    hint="stop the other one, or give this one an --outbox of its own",
                ) from err
            time.sleep(_ATTEMPT_EVERY_SECONDS)
        else:
            return


def _written(file: int) -> str:
    return os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
