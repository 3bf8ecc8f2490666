"""One replicator per outbox: a lock file beside the database.

Two writers would give out the same entry numbers and delete each other's entries. The lock is
the kernel's (``flock``), so it is gone with the process, however that ended.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from replicator.errors import OutboxInUse, OutboxUnusable
from replicator.outbox.sqlite.privacy import FILE_MODE, make_directory

# The commands that look whether a service runs hold the lock for an instant.
_PATIENCE_SECONDS: Final = 1.0
_ATTEMPT_EVERY_SECONDS: Final = 0.05


def _lock(file: int) -> None:
    """Take the lock, or raise BlockingIOError when somebody keeps it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_ATTEMPT_EVERY_SECONDS)
        else:
            return


class OutboxLock:
    """The exclusive right to run on an outbox; a context manager."""

    def __init__(self, database: Path) -> None:
        """Name the lock file; nothing is taken yet."""
        self._path = database.with_name(database.name + ".lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutboxInUse: another process has it.
            OutboxUnusable: the lock file cannot be made.
        """
        try:
            make_directory(self._path.parent)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as err:
            raise OutboxUnusable(
                f"the outbox's lock file {self._path} cannot be opened: {err.strerror}",
                hint="let this user write the directory of the outbox",
            ) from err
        try:
            _lock(file)
        except OSError as err:
            holder = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise OutboxInUse(
                f"the outbox is in use by another replicator (process {holder})",
                hint="stop the other one, or give this one its own --outbox",
            ) from err
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file

    def release(self) -> None:
        """Give the lock back; safe to repeat. The file stays: removing it would be a race."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        """Take the lock; see `acquire`."""
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.release()
