"""A real replicator process, which tests start, ask over HTTP, stop and kill."""

import http.client
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.support.ports import free_port
from tests.support.start import Forked, start
from tests.support.wait import wait_until


def last_words(log: str) -> list[str]:
    """Return what ended a service that logs JSON: a line for each error, and the hint."""
    lines = [line for line in log.splitlines() if line.startswith("{")]
    ends = [json.loads(line) for line in lines if '"event": "ended by ' in line]
    hints = {f"hint: {each['hint']}" for each in ends if each.get("hint")}
    return [*(f"error: {each['error']}" for each in ends), *hints]


class ReplicatorProcess:
    """``replicator run`` with its settings in the environment and an outbox in a directory."""

    arguments: tuple[str, ...] = ()
    may_fork = True
    """Whether its processes may be forked from one that has imported the program."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.outbox = directory / "outbox.db"
        self.log_file = directory / "log"
        self.http = f"127.0.0.1:{free_port()}"
        self.settings = {
            "OUTBOX__URL": f"sqlite:///{self.outbox}",
            "HTTP__LISTEN": self.http,
            "LOG__FORMAT": "json",
            **settings,
        }
        self._process: Forked | subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("REPLICATOR_")}
        return inherited | {f"REPLICATOR_{key}": value for key, value in self.settings.items()}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert self._process is None
        with self.log_file.open("ab") as log:
            self._process = start(
                ["run", *self.arguments], self.environment, log, log, may_fork=self.may_fork
            )

    def start_and_wait(self, seconds: float = 60) -> None:
        self.start()
        self.wait_until_ready(seconds)

    def wait_until_ready(self, seconds: float = 60) -> None:
        wait_until(self.is_ready, seconds, f"readiness; log:\n{self.log()}")

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.log()}"
        return self.get("readyz")[0] == 200

    def get(self, path: str, timeout: float = 5) -> tuple[int, Any]:
        """Return status and body of a request; status 0: nothing answers."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/{path}", timeout=timeout) as reply:
                status, body = reply.status, reply.read()
        except urllib.error.HTTPError as err:
            status, body = err.code, err.read()
        except (OSError, http.client.HTTPException):
            return 0, None
        return status, body.decode() if path == "metrics" else json.loads(body)

    def status(self) -> dict[str, Any]:
        status, facts = self.get("status")
        assert status == 200, self.log()
        assert isinstance(facts, dict)
        return facts

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the series of a metric that have these labels."""
        _, text = self.get("metrics")
        assert isinstance(text, str)
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((name + " ", name + "{")) and all(w in line for w in wanted)
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run another command of the replicator with the same settings."""
        with TemporaryFile() as out, TemporaryFile() as err:
            process = start(arguments, self.environment, out, err, may_fork=self.may_fork)
            try:
                process.wait(60)
            finally:
                process.kill()
                status = process.wait()
            out.seek(0)
            err.seek(0)
            said = out.read().decode(), err.read().decode()
        return subprocess.CompletedProcess(["replicator", *arguments], status, *said)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does."""
        self.send(signal.SIGKILL)
        self.wait()

    def terminate(self, seconds: float = 40) -> int:
        """End it as Kubernetes does; returns the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 40) -> int:
        assert self._process is not None
        status = self._process.wait(seconds)
        self._process = None
        return status

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
