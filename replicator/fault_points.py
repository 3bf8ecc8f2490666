"""Named points on a change's way at which a test can kill the process; off in production.

`FAULT_POINT=committed:3` in the environment of ``replicator run`` means: SIGKILL this process when
it reaches that point for the third time. It is for tests only, not a setting: it has neither the
prefix of settings nor a place in a settings file.

A point is reached once per batch, transaction, write or turn of a loop, never once per message.
Unarmed, it costs a call that looks into an empty dictionary.
"""

import os
import signal
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from replicator.errors import SettingsInvalid
from replicator.log import get_logger

VARIABLE: Final = "FAULT_POINT"

_STDERR: Final = 2


class FaultPoint(StrEnum):
    """Where the process may die, in a change's order; each has one place in the code."""

    # The first start.
    OUTBOX_CREATED = "outbox-created"  # the file is there, without a schema
    MIGRATING = "migrating"  # the schema is made, not committed
    OUTBOX_IDENTIFIED = "outbox-identified"  # the outbox has its id, and no feed

    # Reader: a batch.
    BATCH_READ = "batch-read"  # it was read, and not put into the inbox

    # Store: a transaction.
    BEFORE_BEGIN = "before-begin"  # gathered from the inbox
    SETTLING = "settling"  # confirmed entries are deleted, not committed
    BEFORE_COMMIT = "before-commit"
    COMMITTED = "committed"  # before anything is handed over
    SETTLED = "settled"  # a report of the publisher was committed
    HANDED_OVER = "handed-over"  # in memory, straight after the commit
    READ_BACK = "read-back"  # handed over from the disk

    # Store: a snapshot. All but one are reached after the commit of what they name.
    FEED_OPENED = "feed-opened"
    SNAPSHOT_PART = "snapshot-part"  # initial values were compared
    BEFORE_SWEEP = "before-sweep"  # the feed said ready, and no delete of this page is found
    SWEEP_PART = "sweep-part"  # a page was swept, and there are more
    FEED_READY = "feed-ready"  # everything was compared, the gap is closed

    # Publisher: a turn.
    BEFORE_WRITE = "before-write"
    AFTER_WRITE = "after-write"  # the socket has the frames, as far as it takes them
    CONFIRMED = "confirmed"  # confirms were taken in, and not reported

    # Shutdown: the end of each stage.
    STOP_ASKED = "stop-asked"
    READERS_STOPPED = "readers-stopped"
    DRAINED = "drained"  # the store has committed, the publisher waited for confirms
    PUBLISHER_STOPPED = "publisher-stopped"
    STORE_STOPPED = "store-stopped"  # only the lock of the outbox is still held


_armed: Final[dict[FaultPoint, int]] = {}
"""The point at which to die, and how often it must still be reached; empty in production."""


def arm(environ: Mapping[str, str]) -> None:
    """Arm the point that an environment names, if it names one.

    Raises:
        SettingsInvalid: the point is unknown, or the number of times is not a number.
    """
    if VARIABLE not in environ:
        return
    name, colon, times = environ[VARIABLE].partition(":")
    if name not in set(FaultPoint):
        raise SettingsInvalid(
            f"environment variable {VARIABLE}: {name!r} is not a fault point",
            hint=f"unset it: it is for tests only; the points are {', '.join(FaultPoint)}",
        )
    if colon and not (times.isdecimal() and times.isascii() and int(times) > 0):
        raise SettingsInvalid(
            f"environment variable {VARIABLE}: {times!r} is not a number of times",
            hint=f"for example {name}:3: die when it is reached for the third time",
        )
    _armed[FaultPoint(name)] = int(times or 1)
    get_logger("fault").warning("this process will kill itself", fault_point=environ[VARIABLE])


def reach(*points: FaultPoint) -> None:
    """Pass points; the process is killed here if a test has armed one of them."""
    if _armed:
        for point in points:
            _count_down(point)


def reach_later(point: FaultPoint, later: Callable[[Callable[[], None]], None]) -> None:
    """Pass a point in a callback that ``later`` calls; unarmed, there is no callback."""
    if point in _armed:
        later(lambda: reach(point))


def _count_down(point: FaultPoint) -> None:
    if point not in _armed:
        return
    _armed[point] -= 1
    if _armed[point] == 0:
        # Straight to standard error: what is buffered will not be written any more.
        os.write(_STDERR, f"killed at fault point {point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
