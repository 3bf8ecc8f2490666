"""The process's standard streams: open from the start, and no reason for a trace at the end."""

import errno
import io
import os
import sys
from typing import Final

# What a write can end with because of where it goes: a full disk, a closed stream, a lost volume.
_UNWRITABLE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE}
)


def open_closed() -> None:
    """Open the standard streams that the process was started without; safe to repeat.

    The system would give their descriptors to the next files that are opened, such as the outbox.
    What is written to the standard error is lost, as whoever closed it wished. Writing to the
    standard output fails, because somebody was to read it.
    """
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            # The lowest free descriptor, which is that of the stream: those below it are open.
            descriptor = os.open(os.devnull, flags)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # An argument or a path may have bytes that are not text, and a terminal may not have all
        # characters: they are shown as escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_unwritable(err: OSError) -> bool:
    """Return whether an error is one of writing to an open stream, not of a file that it names."""
    return err.filename is None and err.errno in _UNWRITABLE


def drop_unwritten() -> None:
    """Discard what cannot be written: Python would try again, complain, and end with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
