"""The replicator under a supervisor that starts it again, as Kubernetes does, and a meter on it."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.replicator import ReplicatorProcess, last_words

_POLL_SECONDS = 0.05
_SAMPLE_SECONDS = 0.5
_FIRST_BACKOFF = 0.2
_MAX_BACKOFF = 2.0
_TAIL_CHARACTERS = 2000


class Exit(NamedTuple):
    """An end of the process that nobody had ordered."""

    status: int
    at: float
    log_tail: str
    has_begun: bool


class Sample(NamedTuple):
    """What the process used at one time."""

    at: float
    pid: int
    resident_mb: float
    threads: int
    descriptors: int
    outbox_entries: int | None
    outbox_mb: float


def is_for_a_full_disk(status: int | None, log_tail: str) -> bool:
    """Whether a process ended as docs/commands.md says it may, at its start or its end.

    While it runs it waits for room; there, nothing of the outbox can be written at all.
    """
    errors = [line for line in last_words(log_tail) if line.startswith("error: ")]
    # SQLite's words for it; the second ones when there is no room for what its processes share.
    words = ("database or disk is full", "disk I/O error")
    return status == 1 and bool(errors) and any(each in errors[-1] for each in words)


class Supervised:
    """One replicator that should run; faults end, stop and start it."""

    def __init__(
        self, directory: Path, settings: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self.process = _Process(directory, settings, environment)
        self.exits: list[Exit] = []
        self.samples: list[Sample] = []
        self.starts = 0
        self._logged_before = 0
        self._meter_error: Exception | None = None
        self._lock = threading.RLock()
        self._is_wanted = False
        self._backoff = _FIRST_BACKOFF
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._supervise, daemon=True),
            threading.Thread(target=self._measure, daemon=True),
        ]

    def __enter__(self) -> Self:
        self.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)
        with self._lock:
            self._is_wanted = False
            self.process.close()
        if self._meter_error is not None:
            raise self._meter_error

    def start(self) -> None:
        with self._lock:
            self._is_wanted = True
            if not self.process.is_alive():
                self.process.reap()
                self._logged_before = len(self.process.log())
                self.process.start()
                self.starts += 1

    def kill(self) -> None:
        """End it as a crash does; it stays away until `start`."""
        with self._lock:
            self._is_wanted = False
            if self.process.is_alive():
                self.process.kill()

    def terminate(self, seconds: float = 40) -> int | None:
        """End it as Kubernetes does; returns the exit status, None if it did not run."""
        with self._lock:
            self._is_wanted = False
            if not self.process.is_alive():
                return None
            self.process.send(signal.SIGCONT)
            return self.process.terminate(seconds)

    @property
    def log_tail(self) -> str:
        """The end of what the processes so far have said."""
        return self.process.log()[-_TAIL_CHARACTERS:]

    @property
    def has_begun(self) -> bool:
        """Whether the last process got as far as to say that it is starting."""
        return '"starting"' in self.process.log()[self._logged_before :]

    def signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self.process.is_alive():
                self.process.send(number)

    def stacks(self) -> str:
        """Say what the threads of the process do, where py-spy is there to tell."""
        pid = self.process.pid_or_none()
        program = Path(sys.executable).with_name("py-spy")
        if pid is None or not program.exists():
            return ""
        dump = [str(program), "dump", "--pid", str(pid)]
        told = subprocess.run(dump, capture_output=True, text=True, timeout=30, check=False)
        return told.stdout

    def is_ready(self) -> bool:
        with self._lock:
            return self.process.is_alive() and self.process.get("readyz")[0] == 200

    def _supervise(self) -> None:
        while not self._end.wait(_POLL_SECONDS):
            with self._lock:
                if not self._is_wanted or self.process.is_alive():
                    continue
                status = self.process.reap()
                if status is not None:
                    self.exits.append(Exit(status, time.time(), self.log_tail, self.has_begun))
            self._end.wait(self._backoff)
            self._backoff = min(2 * self._backoff, _MAX_BACKOFF)
            with self._lock:
                if self._is_wanted and not self._end.is_set():
                    self.start()

    def _measure(self) -> None:
        try:
            self._sample()
        except Exception as err:  # noqa: BLE001 -- raised by `__exit__`, in the run's thread
            self._meter_error = err

    def _sample(self) -> None:
        while not self._end.wait(_SAMPLE_SECONDS):
            pid = self.process.pid_or_none()
            if pid is None:
                continue
            try:
                text = Path(f"/proc/{pid}/status").read_text()
                descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            except OSError:
                continue  # it ended in between
            facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if "VmRSS" not in facts:
                continue
            # Without the lock: a process that is stopped, or busy, must not stop the meter.
            status, body = self.process.get("status", timeout=0.3)
            entries = None
            if status == 200 and isinstance(body, dict):
                entries = body["outbox"]["pending"] + body["outbox"]["parked"]
            self.samples.append(
                Sample(
                    time.time(),
                    pid,
                    int(facts["VmRSS"].split()[0]) / 1024,
                    int(facts["Threads"]),
                    descriptors,
                    entries,
                    self.process.outbox_bytes() / 1e6,
                )
            )


class _Process(ReplicatorProcess):
    """A `ReplicatorProcess` that may have ended by itself."""

    may_fork = False  # its memory is measured; and campaigns are not sessions of pytest

    def __init__(
        self, directory: Path, settings: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        super().__init__(directory, settings)
        self._extra = dict(environment)

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self._extra

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pid_or_none(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def reap(self) -> int | None:
        """Forget a process that ended; returns its exit status."""
        if self._process is None:
            return None
        status = self._process.wait(5)
        self._process = None
        return status

    def outbox_bytes(self) -> int:
        total = 0
        for name in (self.outbox, Path(f"{self.outbox}-wal")):
            if name.exists():
                total += name.stat().st_size
        return total

    def log_events(self) -> list[dict[str, object]]:
        """What it logged; a line that is not JSON is a defect."""
        return [json.loads(line) for line in self.log().splitlines()]
