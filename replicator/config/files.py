"""Files that settings name: regular ones only, so that none can keep the program waiting.

Errors are `ValueError`, with what is wrong and without the path; the caller adds the key.
"""

import os
import stat
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to be read, symbolic links followed; never waits for another program.

    Raises:
        ValueError: it cannot be opened, or is not a regular file.
    """
    try:
        # Without O_NONBLOCK, a pipe that nobody writes to is waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise ValueError(f"cannot be read: {err.strerror}") from err
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise ValueError(f"is {_KINDS.get(kind, 'something else')}; it must be a regular file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, *, max_bytes: int) -> str:
    """Read a file of UTF-8 text; a byte order mark before it is not part of it.

    Raises:
        ValueError: it cannot be read, is not such a text, or is larger.
    """
    with open_regular(path) as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as err:
            raise ValueError(f"cannot be read: {err.strerror}") from err
    if len(content) > max_bytes:
        raise ValueError(f"is larger than {max_bytes // 1024} KiB")
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise ValueError(f"is not UTF-8 text (at line {line})") from None
