"""The replicator of the demo: a real process, started, killed and asked over its HTTP address."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from replicator_sandbox.demo.servers import DemoFailed
from replicator_sandbox.host import free_port

_STOP_SECONDS: Final = 30
_ANSWER_SECONDS: Final = 2
_TAIL: Final = 5


class Replica:
    """One outbox and the process that runs on it."""

    def __init__(
        self, directory: Path, *, table: str, rethinkdb: str, rabbitmq: str, exchange: str
    ) -> None:
        """Prepare; nothing runs yet."""
        self.outbox_url: Final = f"sqlite:///{directory / 'replicator.db'}"
        self._log = directory / "replicator.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        arguments = ["run", "--table", table, "--outbox", self.outbox_url]
        arguments += ["--exchange", exchange, "--http", f"127.0.0.1:{self._port}"]
        self._command = [sys.executable, "-m", "replicator", *arguments]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")
        }
        # Not on the command line, which everybody can read: addresses may contain passwords.
        self._environment = inherited | {
            "REPLICATOR_RETHINKDB__URL": rethinkdb,
            "REPLICATOR_RABBITMQ__URL": rabbitmq,
        }

    def start(self) -> None:
        """Start the process; does not wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the demo's, which stops everything in order
            )

    def kill(self) -> None:
        """End it at once, as the kernel does when memory runs out."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; safe to repeat."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check(self) -> None:
        """Check that it still runs.

        Raises:
            DemoFailed: it ended by itself; the message has the last lines of its log.
        """
        if self._process is not None and self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-_TAIL:]
            raise DemoFailed(
                "the replicator ended by itself:\n" + "\n".join(lines),
                hint="this is a defect, please report it with these lines",
            )

    def status(self) -> dict[str, Any] | None:
        """Return the facts of ``/status``; None while it does not answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self._port}/status"
        try:
            with opener.open(url, timeout=_ANSWER_SECONDS) as answer:
                facts: dict[str, Any] = json.load(answer)
        except (OSError, HTTPException, ValueError):
            return None
        return facts

    def is_ready(self) -> bool:
        """Return whether every feed is ready and the broker takes messages."""
        facts = self.status()
        return facts is not None and bool(facts["ready"])

    def pending(self) -> int | None:
        """Return the number of entries that wait in the outbox; None: unknown."""
        facts = self.status()
        return None if facts is None else int(facts["outbox"]["pending"])

    def is_drained(self) -> bool:
        """Return whether it is ready and its outbox is empty."""
        facts = self.status()
        return facts is not None and bool(facts["ready"]) and facts["outbox"]["pending"] == 0
