"""A real RethinkDB server for tests: started on free loopback ports, always stopped.

`find_rethinkdb` finds the program; tests that need it are skipped without it.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.ports import free_port
from tests.support.wait import wait_until

_HOST = "127.0.0.1"
_START_SECONDS = 30
_STOP_SECONDS = 20


def find_rethinkdb() -> str | None:
    """Return the path of the ``rethinkdb`` program; None if it is not on PATH."""
    return shutil.which("rethinkdb")


def driver_socket(connection: Any) -> socket.socket:
    """Return the socket of a driver's connection, for the test to close.

    If the server has hung up first, the driver forgets its socket without closing it, which a test
    sees as a ResourceWarning at some later time.
    """
    found: socket.socket = connection._instance._socket._socket
    return found


class RealRethinkDB:
    """One server process with a data directory of its own.

    ``restart`` and ``kill`` keep the data and the port, as a crash of a server does.
    """

    def __init__(self, *, cache_megabytes: int = 64, options: tuple[str, ...] = ()) -> None:
        """Prepare a server; ``start`` or ``with`` starts it.

        Args:
            cache_megabytes: memory for the server's cache.
            options: further command-line options, such as those for TLS.
        """
        self.host = _HOST
        self.port = free_port()
        self.cluster_port = free_port()
        self._cache_megabytes = cache_megabytes
        self._options = options
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address in the form that ``rethinkdb.url`` takes."""
        return f"rethinkdb://admin@{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive, even if frozen."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and delete its data."""
        self.close()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="replicator-rethinkdb-")
        with (Path(self._directory.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(Path(self._directory.name)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, _START_SECONDS, "the start of RethinkDB")

    def _command(self, directory: Path) -> list[str]:
        return [
            *self._serving(),
            "--no-update-check",
            *("--directory", str(directory / "data")),
            *("--cache-size", str(self._cache_megabytes)),
            *self._options,
        ]

    def _serving(self, *mode: str) -> list[str]:
        program = find_rethinkdb()
        assert program is not None, "the program rethinkdb is not on PATH"
        return [
            *(program, *mode, "--no-http-admin", "--bind", _HOST),
            *("--driver-port", str(self.port)),
            *("--cluster-port", str(self.cluster_port)),
        ]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"RethinkDB ended at start:\n{self.log()}"
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False

    def log(self) -> str:
        """Return what the server printed."""
        if self._directory is None:
            return ""
        return (Path(self._directory.name) / "log").read_text(errors="replace")

    def stop(self) -> None:
        """End the process in an orderly way; its data stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the process as a crash does (SIGKILL); what is on disk stays."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process without ending it: the kernel still acknowledges packets."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen process."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop, if it runs, and start again on the same data and port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop and delete the data."""
        self.stop()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a frozen process would not end
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class RethinkDBProxy(RealRethinkDB):
    """A process without data of its own that passes queries on to a server (`rethinkdb proxy`)."""

    def __init__(self, server: RealRethinkDB) -> None:
        """Prepare a proxy of a server that runs."""
        super().__init__()
        self._server = server

    def _command(self, directory: Path) -> list[str]:
        return [
            *self._serving("proxy"),
            *("--join", f"{_HOST}:{self._server.cluster_port}"),
            *("--log-file", str(directory / "log")),  # a proxy writes it where it is started
        ]
