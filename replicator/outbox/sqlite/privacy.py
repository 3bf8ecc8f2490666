"""Who else on this host may read or write an outbox, which contains documents.

The file is made with mode 0600 whatever the umask is, and SQLite gives its ``-wal`` and ``-shm``
the mode of the file. What was there before stays as it is: somebody may have opened it to a group
on purpose. What every user may do is only reported.
"""

import contextlib
import stat
from pathlib import Path
from typing import Final

from replicator.outbox.port import Exposure

FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_BESIDE: Final = ("", "-wal", "-shm", ".lock")

_REMEDY: Final = "chmod 600 its files, and give it a directory of its own with mode 700"


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents for the owner alone; safe to repeat.

    ``Path.mkdir(parents=True)`` leaves the parents to the umask: in a directory that everybody
    may write, anybody can replace the outbox by another file.

    Raises:
        OSError: it cannot be created.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)


def exposure(database: Path) -> Exposure | None:
    """Return what every user of this host may do with an outbox; None: nothing.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    for name in (database.name + ending for ending in _BESIDE):
        # SQLite may remove some of them at any time.
        with contextlib.suppress(FileNotFoundError):
            found += _said(name, database.with_name(name).stat().st_mode)
    directory = next(parent for parent in database.parents if parent.exists())
    mode = directory.stat().st_mode
    # In a sticky directory, such as /tmp, nobody can replace the files of others.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        found.append(f"every user may write its directory {directory} (mode {_octal(mode)})")
    return Exposure(found, _REMEDY) if found else None


def _said(name: str, mode: int) -> list[str]:
    verbs = [verb for verb, bit in (("read", stat.S_IROTH), ("write", stat.S_IWOTH)) if mode & bit]
    return [f"every user may {' and '.join(verbs)} {name} (mode {_octal(mode)})"] if verbs else []


def _octal(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"
