"""Where an outbox's file is: the one place that its URL means, and whether it is still there.

SQLite keeps the log, and this project the lock, in files beside the database whose names begin with
its name. So a file must have one name: by two of them, two replicators would run on it, each with a
log of its own. A symbolic link is followed to the file. Other names cannot be followed, and are
refused.
"""

import os
import stat
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from replicator.errors import OutboxUnavailable, OutboxUnusable

_DRIVERS: Final = ("sqlite", "sqlite+pysqlite")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_MOUNT_POINT: Final = 4  # the field of a line (proc(5))
_BESIDE: Final = "its log belongs beside it under the same name, and would be missed"


def database_path(url: URL) -> Path:
    """Return the file of an SQLite outbox, with all symbolic links followed.

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
    return Path(os.path.realpath(url.database))


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


def require_one_name(path: Path) -> None:
    """Check that a database file, if it is there, has no other name.

    Raises:
        OutboxUnusable: it has a hard link, or is mounted by itself, as ``docker run -v FILE:FILE``
            and ``subPath`` of Kubernetes do.
    """
    try:
        names = path.stat().st_nlink
    except OSError:
        return  # it is made, or what opens it says why not
    if names > 1:
        raise OutboxUnusable(
            f"the outbox at {path} has a second name, a hard link: {_BESIDE}",
            hint="remove the other name, or copy the file",
        )
    if _is_mount_point(path):
        raise OutboxUnusable(
            f"the outbox at {path} is a file that is mounted by itself: {_BESIDE}",
            hint="mount the directory that contains it",
        )


def _is_mount_point(path: Path) -> bool:
    """Return whether something is mounted here; False where the system does not say."""
    name = os.fsencode(path)
    for each in b"\\ \t\n":
        name = name.replace(bytes((each,)), b"\\%03o" % each)
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    return any(line.split(b" ")[_MOUNT_POINT] == name for line in lines)


class SameFile:
    """Checks that a database file, and the lock on it, are still where they were.

    SQLite goes on writing to a deleted file, and all of that is lost when the process ends: better
    to end at once, while little is unconfirmed. A deleted lock holds nobody off.
    """

    def __init__(self, *paths: Path) -> None:
        """Remember nothing yet."""
        self._paths = paths
        self._inodes: dict[Path, int] = {}

    def require(self) -> None:
        """Compare each file with the one that was found first.

        Raises:
            OutboxUnusable: it was removed or replaced.
            OutboxUnavailable: the volume does not say.
        """
        for path in self._paths:
            inode = self._inode(path)
            if inode is not None:
                self._inodes.setdefault(path, inode)
            if inode != self._inodes.get(path):
                raise OutboxUnusable(
                    f"the outbox's file {path} was removed or replaced while it was in use",
                    hint="start again: it goes on with the file that is there, or with a new one",
                )

    def _inode(self, path: Path) -> int | None:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return None
        except OSError as err:
            raise OutboxUnavailable(
                f"the outbox at {path} cannot be looked at: {err.strerror}",
                hint="look at the volume",
            ) from err
