"""Containers of the image as Kubernetes runs them: read-only, without capabilities."""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

OUTBOX = "/var/lib/replicator"
# Not the image's own, as OpenShift does it: no entry in /etc/passwd, the group of root. With
# podman and without root there are only the ids below 65,536.
RANDOM_USER = f"{20_000 + secrets.randbelow(40_000)}:0"

_SIGTERM = 1 << (signal.SIGTERM - 1)
_RESTRICTED = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    f"--user={RANDOM_USER}",
]


class Engine(NamedTuple):
    """The program that runs containers, and the image."""

    program: str
    image: str

    def ask(self, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run the engine; its exit status is for the caller."""
        return subprocess.run(
            [self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def must(self, *arguments: str) -> str:
        """Run the engine; return what it prints."""
        done = self.ask(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextlib.contextmanager
    def container(
        self, settings: Mapping[str, str], *options: str, command: tuple[str, ...] = ()
    ) -> Iterator["Container"]:
        """Yield a container that is not started yet; the image's own command is ``run``."""
        name = f"replicator-{uuid.uuid4().hex[:12]}"
        environment = [f"--env=REPLICATOR_{key}={value}" for key, value in settings.items()]
        options = (*_RESTRICTED, *environment, *options)
        self.must("create", "--name", name, *options, self.image, *command)
        try:
            yield Container(self, name)
        finally:
            self.must("rm", "--force", "--volumes", name)


def volume(directory: Path, *, is_own: bool = True) -> str:
    """Return the option for an outbox's volume, as Kubernetes makes it: the user may write it."""
    place = directory / "outbox"
    place.mkdir()
    if is_own and os.geteuid() == 0:
        os.chown(place, int(RANDOM_USER.partition(":")[0]), 0)
    elif is_own:
        place.chmod(0o777)
    return f"--volume={place}:{OUTBOX}"


class Container:
    """One container."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        self._started_at = 0.0

    def start(self) -> None:
        self._engine.must("start", self.name)
        self._started_at = time.monotonic()

    def at(self, seconds: float) -> None:
        """Wait until this many seconds after the start: what is tested is a moment."""
        time.sleep(max(0.0, self._started_at + seconds - time.monotonic()))

    def handles_sigterm(self) -> bool:
        """Return whether process 1 is the program, and has a handler of SIGTERM."""
        status = self.run("cat", "/proc/1/status").stdout
        caught = re.search(r"^SigCgt:\s+(\w+)", status, re.MULTILINE)
        # The engine's own process, which becomes the program, handles all signals.
        is_program = status.startswith("Name:\treplicator\n")
        return is_program and caught is not None and bool(int(caught[1], 16) & _SIGTERM)

    def terminate(self) -> None:
        self._engine.must("kill", "--signal=TERM", self.name)

    def wait(self, seconds: float) -> int:
        """Return the exit status; the end must come within the given time."""
        return int(self._engine.ask("wait", self.name, seconds=seconds).stdout)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run another program in it."""
        return self._engine.ask("exec", self.name, *command)

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of its log. Each is JSON: nothing else may be among them."""
        done = self._engine.ask("logs", self.name)
        return [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]

    def is_live(self) -> bool:
        """Return what the image's health check says."""
        if self._engine.program == "podman":  # without systemd nobody else runs it
            return self._engine.ask("healthcheck", "run", self.name).returncode == 0
        state = self._engine.must("inspect", "--format={{.State.Health.Status}}", self.name)
        return state == "healthy"
