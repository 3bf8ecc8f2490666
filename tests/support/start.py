"""How tests start ``python -m replicator``: as a process of its own, mostly without its imports.

They are most of what a start costs, so one process per session has done them (`zygote`), and others
are forked from it. What the interpreter or a library may read while it is imported has to be the
same for both. So a start is forked only if its environment differs in nothing but settings of the
replicator; any other one is a program of its own (`subprocess.Popen`).
"""

import atexit
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

_PR_SET_CHILD_SUBREAPER: Final = 36  # <linux/prctl.h>
_POLL_SECONDS: Final = 0.005
_ANSWER_SECONDS: Final = 60

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Forked:
    """A process that was forked; to tests it is what a `subprocess.Popen` would be."""

    def __init__(self, pid: int, arguments: Sequence[str]) -> None:
        self.pid = pid
        self.args = ["replicator", *arguments]
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if timeout is not None and deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(_POLL_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Zygote:
    """The process that the others are forked from; it ends with this one, however that ends."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_ANSWER_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._channel.close()
        self._process.wait(_ANSWER_SECONDS)

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], streams: list[int]
    ) -> Forked:
        umask = os.umask(0o77)
        os.umask(umask)
        order = {
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(Path.cwd()),
            "umask": umask,
        }
        # Only for the moment: what else loses its parent is left to who would adopt it anyway.
        _adopt(orphans=True)
        try:
            socket.send_fds(self._channel, [json.dumps(order).encode()], streams)
            pid = int(self._channel.recv(32))
            assert self._channel.recv(32) == b"adopted"
        finally:
            _adopt(orphans=False)
        return Forked(pid, arguments)


_lock: Final = threading.Lock()
_zygote: _Zygote | None = None


def _adopt(*, orphans: bool) -> None:
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def differ_in_settings_only(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether an import finds the same in both environments: the rule for what is forked."""
    different = {name for name, _ in one.items() ^ other.items()}
    different.discard("PYTEST_CURRENT_TEST")
    return all(name.startswith("REPLICATOR_") for name in different)


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
    *,
    may_fork: bool = True,
) -> "Forked | subprocess.Popen[bytes]":
    """Start a command of the replicator, with nothing on its standard input.

    A test that looks at the process from outside (its command line, the memory that is its own)
    says that it may not be forked.
    """
    global _zygote  # noqa: PLW0603 -- one per process of pytest, made when the first test asks
    with _lock:
        if may_fork:
            _zygote = _zygote or _Zygote()
            if differ_in_settings_only(environment, _zygote.environment):
                with Path(os.devnull).open("rb") as nothing:
                    streams = [each.fileno() for each in (nothing, stdout, stderr)]
                    return _zygote.fork(arguments, environment, streams)
    return subprocess.Popen(
        [sys.executable, "-m", "replicator", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
