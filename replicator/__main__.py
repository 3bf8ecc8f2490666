"""The entry of the ``replicator`` command and of ``python -m replicator``.

As process 1 of a container it hears SIGTERM before it imports the rest, which takes a second or
two: the kernel drops a signal that process 1 has no handler for. Any other process is ended by the
signal itself. `run` puts its own handler in place.
"""

import os
import signal
import sys
from types import FrameType


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    """End the process: nothing runs yet that would have to be stopped in order."""
    os._exit(128 + number)


def main() -> None:
    """Run the command line; the process ends with the command's exit status."""
    # Order matters: after the imports, a SIGTERM that came during them would be lost.
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end_at_once)
    try:
        from replicator.cli.main import main as command_line  # noqa: PLC0415

        command_line()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
