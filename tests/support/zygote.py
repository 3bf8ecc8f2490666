"""The program, imported once: each order forks a process that goes on as ``python -m replicator``.

Run as ``python -m tests.support.zygote FD``; FD is its end of the socket of `tests.support.start`.
"""

import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from replicator import __main__ as program
from replicator.cli import main as _imported  # noqa: F401 -- what takes a process a second

MAX_ORDER_BYTES = 200_000
"""What one message of a socket holds, with Linux' own limits."""


def serve(channel: socket.socket) -> bool:
    """Fork a process for each order; returns True in that process, False at the tests' end.

    The one between is its parent only until it has told the process id: then the process is
    adopted by the tests' own one, which can wait for it as for any that it starts itself.
    """
    while True:
        order, descriptors, _, _ = socket.recv_fds(channel, MAX_ORDER_BYTES, 3)
        if not order:
            return False
        between = os.fork()
        if between:
            for descriptor in descriptors:
                os.close(descriptor)
            os.waitpid(between, 0)
            channel.send(b"adopted")
        elif process := os.fork():
            channel.send(str(process).encode())
            os._exit(0)
        else:
            channel.close()
            become(json.loads(order), descriptors)
            return True


def become(order: dict[str, Any], descriptors: list[int]) -> None:
    """Give this process all that ``exec`` would have given it."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    os.chdir(order["directory"])
    os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [str(program.__file__), *order["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the socket closes when pytest has ended
    gc.freeze()  # else the first collection of each process would copy all of it
    if serve(socket.socket(fileno=int(sys.argv[1]))):
        program.main()
