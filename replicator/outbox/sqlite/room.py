"""The room on an outbox's volume, and a check that its file is still where it was."""

import shutil
from pathlib import Path
from typing import Final

from replicator.errors import OutboxUnavailable, OutboxUnusable

_RESERVE_BYTES: Final = 128 * 1024 * 1024
_RESERVE_SHARE: Final = 10  # of a small volume only a tenth is kept free


def is_disk_low(directory: Path, *, was_low: bool) -> bool:
    """Return whether the volume has so little room that the outbox counts as full."""
    usage = shutil.disk_usage(directory)
    reserve = min(_RESERVE_BYTES, usage.total // _RESERVE_SHARE)
    return usage.free < (2 * reserve if was_low else reserve)


class SameFile:
    """Checks that a database file is still where it was.

    SQLite goes on writing to a deleted file, and all of that is lost when the process ends: better
    to end at once, while little is unconfirmed.
    """

    def __init__(self, path: Path) -> None:
        """Remember nothing yet."""
        self._path = path
        self._inode: int | None = None

    def require(self) -> None:
        """Compare the file with the one of the first call.

        Raises:
            OutboxUnusable: it was removed or replaced.
            OutboxUnavailable: the volume does not say.
        """
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = -1
        except OSError as err:
            raise OutboxUnavailable(
                f"the outbox at {self._path} cannot be looked at: {err.strerror}",
                hint="look at the volume",
            ) from err
        if self._inode is None:
            self._inode = inode
        if inode != self._inode:
            raise OutboxUnusable(
                f"the outbox at {self._path} was removed or replaced while it was in use",
                hint="start again: it goes on with the file that is there, or with a new one",
            )
