"""The embedded RethinkDB as a process of its own: ``python -m replicator_sandbox``.

Prints what it is for, then ``ready`` and its address, and runs until SIGTERM or SIGINT, or
until its standard input ends if ``--exit-with-parent`` was given.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from replicator_sandbox.control import ControlPort
from replicator_sandbox.server import SandboxServer

_HOST = "127.0.0.1"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m replicator_sandbox",
        description="An in-memory RethinkDB for demos and tests; it keeps nothing.",
    )
    parser.add_argument("--port", type=int, default=0, help="port for drivers; 0: any free one")
    parser.add_argument("--control-port", type=int, help="port for faults on demand; 0: any")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input is closed"
    )
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if arguments.exit_with_parent:
        _watch_input(loop, stopping)
    server = SandboxServer()
    await server.start(_HOST, arguments.port, None)
    _say("in-memory RethinkDB of replicator, for demos and tests only: nothing is kept")
    if arguments.control_port is not None:
        control = await ControlPort(server).start(arguments.control_port)
        _say(f"control 127.0.0.1:{control.sockets[0].getsockname()[1]}")
    _say(f"ready rethinkdb://admin@{_HOST}:{server.port}")
    await stopping.wait()
    await server.stop()


def _watch_input(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Stop when the other end of standard input is closed: the parent is gone."""
    descriptor = sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stopping.set()

    loop.add_reader(descriptor, look)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the sandbox until a signal, or the end of its input, stops it."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(_arguments()))


if __name__ == "__main__":
    main()
