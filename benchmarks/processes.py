"""What the kernel says of a process: CPU time, memory, bytes written. Linux only."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_IDLE_SECONDS = 0.3
_IDLE_SHARE = 0.1


class Usage(NamedTuple):
    cpu_seconds: float
    """User and system time of all threads."""

    written_bytes: int
    """Sent to a disk, not only to the page cache."""


def usage(pid: int | None) -> Usage | None:
    """Return what a process has used so far; None for a server that is not ours."""
    if pid is None:
        return None
    place = Path(f"/proc/{pid}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    written = _number((place / "io").read_text(), "write_bytes:")
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), written)


def usages(pids: Mapping[str, int | None]) -> dict[str, Usage]:
    """Return what each process has used so far, without servers that are not ours."""
    return {who: used for who, pid in pids.items() if (used := usage(pid))}


def wait_until_idle(pids: Mapping[str, int | None], seconds: float) -> dict[str, Usage]:
    """Wait until together they use at most a tenth of a core, and return what was used until then.

    Returns after ``seconds`` in any case: a server may always have something to do.
    """
    deadline = time.monotonic() + seconds
    while True:
        before = usages(pids)
        time.sleep(_IDLE_SECONDS)
        after = usages(pids)
        used = sum(after[who].cpu_seconds - before[who].cpu_seconds for who in after)
        if used < _IDLE_SECONDS * _IDLE_SHARE or time.monotonic() > deadline:
            return after


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Return resident memory in MiB; ``VmHWM`` is its maximum so far."""
    return _number(Path(f"/proc/{pid}/status").read_text(), f"{field}:") / 1024


def _number(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)
