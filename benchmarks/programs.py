"""The programs that are measured, this project and its peers: start, hold, let go, stop."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks import npm
from benchmarks.place import Place
from benchmarks.processes import memory_mb
from tests.support.ports import free_port

_PEERS = Path(__file__).parent / "peers"
# The `replicator` program of another version, installed elsewhere.
BEFORE = os.environ.get("BENCH_BEFORE")
_START_SECONDS = 120
_STOP_SECONDS = 40


@dataclass(frozen=True)
class Kind:
    """A program as it appears in the report."""

    name: str
    is_durable: bool = True
    """Whether it declares its exchange durable; the tutorial does not."""

    publishes: bool = True
    reads: bool = True


REPLICATOR = Kind("replicator")
REPLICATOR_BEFORE = Kind("replicator-before")
TUTORIAL = Kind("tutorial", is_durable=False)
TUTORIAL_CONFIRM = Kind("tutorial-confirm")
JAVASCRIPT = Kind("javascript", is_durable=False)
JAVASCRIPT_CONFIRM = Kind("javascript-confirm")
PUBLISH_ONLY = Kind("publish-only", reads=False)
DRAIN_ONLY_RAW = Kind("drain-only-raw", publishes=False)
DRAIN_ONLY_DRIVER = Kind("drain-only-driver", publishes=False)

ALL = (
    REPLICATOR,
    TUTORIAL,
    TUTORIAL_CONFIRM,
    JAVASCRIPT,
    JAVASCRIPT_CONFIRM,
    PUBLISH_ONLY,
    DRAIN_ONLY_RAW,
    DRAIN_ONLY_DRIVER,
)
_SCRIPTS = {
    TUTORIAL: "tutorial.py",
    TUTORIAL_CONFIRM: "tutorial_confirm.py",
    JAVASCRIPT: "tutorial.js",
    JAVASCRIPT_CONFIRM: "tutorial_confirm.js",
}


def runnable(kinds: Sequence[Kind]) -> list[Kind]:
    """Leave out, and name, what is not installed: JavaScript peers, another version."""
    if REPLICATOR_BEFORE in kinds and BEFORE is None:
        print("  BENCH_BEFORE names no other replicator: without it", flush=True)
        kinds = [kind for kind in kinds if kind is not REPLICATOR_BEFORE]
    if npm.node() is not None:
        return list(kinds)
    left_out = [kind.name for kind in kinds if kind in (JAVASCRIPT, JAVASCRIPT_CONFIRM)]
    if left_out:
        print(f"  no node and npm here: without {', '.join(left_out)}", flush=True)
    return [kind for kind in kinds if kind.name not in left_out]


class Program:
    """A process that prints ``ready`` when it is ready, and perhaps ``done``."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], tracer: Sequence[str] = ()
    ) -> None:
        """Prepare it. ``tracer`` is a command to put in front, which becomes the program itself."""
        self._command = [*tracer, *command]
        self._environment = dict(environment)
        self._lines: queue.Queue[str] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; return when it is ready for changes."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        self.wait_for("ready", seconds)

    def wait_for(self, word: str, seconds: float) -> None:
        """Wait for a line of its output."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no {word!r} in {seconds} seconds") from None
        if line != word:
            raise RuntimeError(f"expected {word!r}, the program said {line!r}")

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._lines.put(line.strip())
        self._lines.put("(its output ended)")

    def hold(self) -> None:
        """Freeze it where it is; changes for it pile up."""
        os.kill(self.pid, signal.SIGSTOP)

    def go(self) -> None:
        """Let it go on, even if it waits for its input."""
        assert self._process is not None
        assert self._process.stdin is not None
        os.kill(self.pid, signal.SIGCONT)
        # It has ended: whoever waits for its work will notice.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def require_running(self) -> None:
        """Raise an error if it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._command[-2:]} ended with {self._process.returncode}")

    def memory(self, field: str = "VmRSS") -> float:
        """Return resident memory in MiB; ``VmHWM`` is its maximum so far."""
        return memory_mb(self.pid, field)

    def stop(self) -> None:
        """End it in order, or kill it if that takes too long. Safe to repeat."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a frozen process would not end
            process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


class Replicator(Program):
    """This project, with its default settings and an outbox of its own."""

    def __init__(
        self,
        place: Place,
        directory: Path,
        tracer: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "replicator"),
        **settings: str,
    ) -> None:
        """Prepare it for all tables of the place. ``settings`` as in the environment."""
        self.http = f"127.0.0.1:{free_port()}"
        self.outbox = directory / f"{place.name}.db"
        ours = {
            "TABLES": ",".join(f"{place.name}.{table}" for table in place.tables),
            "RETHINKDB__URL": place.servers.rethinkdb_url,
            "RABBITMQ__URL": place.url,
            "RABBITMQ__EXCHANGE": place.name,
            "OUTBOX__URL": f"sqlite:///{self.outbox}",
            "HTTP__LISTEN": self.http,
            "LOG__LEVEL": "error",
            **settings,
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("REPLICATOR_")}
        super().__init__(
            [*command, "run"],
            inherited | {f"REPLICATOR_{key}": value for key, value in ours.items()},
            tracer,
        )

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not self._is_ready():
            self.require_running()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replicator is not ready after {seconds} seconds")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            self.get("readyz")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.http}/{path}", timeout=5) as reply:
            return reply.read().decode()

    def pending(self) -> int:
        """Return how many entries wait in its outbox."""
        return json.loads(self.get("status"))["outbox"]["pending"]

    def metric(self, name: str) -> float:
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.get("metrics").splitlines()
            if line.startswith((name + " ", name + "{"))
        )


def program(
    kind: Kind, place: Place, directory: Path, *, work: tuple[int, int], tracer: Sequence[str] = ()
) -> Program:
    """Make a program of this kind that works on this place; it is not started.

    Args:
        kind: the kind.
        place: its table, exchange and queue.
        directory: for an outbox.
        work: the number of changes and their bytes, for programs that must know.
        tracer: a command to put in front.
    """
    count, size = work
    if kind is REPLICATOR:
        return Replicator(place, directory, tracer)
    if kind is REPLICATOR_BEFORE:
        assert BEFORE is not None
        return Replicator(place, directory, tracer, command=[BEFORE])
    port, table = str(place.servers.rethinkdb_port), place.tables[0]
    script = str(_PEERS / _SCRIPTS.get(kind, f"{kind.name.replace('-', '_')}.py"))
    environment = dict(os.environ)
    if kind in _SCRIPTS:
        arguments = [port, place.url, place.name, table, place.name]
    elif kind is PUBLISH_ONLY:
        arguments = [place.url, place.name, f"{table}.create", str(count), str(size)]
    else:
        arguments = [port, place.name, table, str(count)]
    if script.endswith(".js"):
        environment["NODE_PATH"] = str(npm.packages())
        return Program(["node", script, *arguments], environment, tracer)
    environment["PYTHONPATH"] = str(_PEERS.parent.parent)
    return Program([sys.executable, script, *arguments], environment, tracer)
