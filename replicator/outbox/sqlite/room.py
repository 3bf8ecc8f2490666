"""The room on an outbox's volume."""

import shutil
from pathlib import Path
from typing import Final

_RESERVE_BYTES: Final = 128 * 1024 * 1024
_RESERVE_SHARE: Final = 10  # of a small volume only a tenth is kept free


def is_disk_low(directory: Path, *, was_low: bool) -> bool:
    """Return whether the volume has so little room that the outbox counts as full."""
    usage = shutil.disk_usage(directory)
    reserve = min(_RESERVE_BYTES, usage.total // _RESERVE_SHARE)
    return usage.free < (2 * reserve if was_low else reserve)
