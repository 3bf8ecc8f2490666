"""What the kernel says of a process: CPU time, memory, bytes written. Linux only."""

import os
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    cpu_seconds: float
    """User and system time of all threads."""

    written_bytes: int
    """Sent to a disk, not only to the page cache."""


def usage(pid: int | None) -> Usage | None:
    """Return what a process has used so far; None for a server that is not ours to look at."""
    if pid is None:
        return None
    place = Path(f"/proc/{pid}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    written = _number((place / "io").read_text(), "write_bytes:")
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), written)


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Return resident memory in MiB; ``VmHWM`` is the most there was."""
    return _number(Path(f"/proc/{pid}/status").read_text(), f"{field}:") / 1024


def _number(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)
