"""Starting, stopping and watching the programs that are measured."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pika
from rethinkdb import r

from benchmarks.servers import Servers
from tests.support.ports import free_port

_HERE = Path(__file__).parent


class Bench:
    """A table, an exchange and a queue of one's own on the servers."""

    def __init__(self, servers: Servers, name: str, *, is_durable: bool) -> None:
        self.servers = servers
        self.name = name
        self.port = urlsplit(servers.rethinkdb_url).port or 28015
        self.connection = r.connect(host="127.0.0.1", port=self.port)
        r.db_create(name).run(self.connection)
        r.db(name).table_create("mytable").run(self.connection)
        self.table = r.db(name).table("mytable")
        self._rabbit = pika.BlockingConnection(pika.URLParameters(servers.rabbitmq_url))
        self._channel = self._rabbit.channel()
        self._channel.exchange_declare(name, exchange_type="topic", durable=is_durable)
        self._channel.queue_declare(name, durable=True)
        self._channel.queue_bind(name, name, "mytable.*")

    def insert(self, count: int, size: int, *, start: int = 0) -> None:
        filler = "x" * max(0, size - 60)
        for first in range(start, start + count, 500):
            batch = [
                {"id": f"document-{n:012d}", "n": n, "filler": filler}
                for n in range(first, min(first + 500, start + count))
            ]
            self.table.insert(batch, durability="soft").run(self.connection)

    def depth(self) -> int:
        return self._channel.queue_declare(
            self.name, durable=True, passive=True
        ).method.message_count

    def wait_for_depth(self, count: int, seconds: float) -> float:
        """Return how long it took until so many messages lay in the queue."""
        started = time.monotonic()
        while self.depth() < count:
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"{self.depth()} of {count} messages after {seconds} seconds")
            time.sleep(0.02)
        return time.monotonic() - started

    def close(self) -> None:
        self._channel.queue_delete(self.name)
        self._channel.exchange_delete(self.name)
        self._rabbit.close()
        r.db_drop(self.name).run(self.connection)
        self.connection.close(noreply_wait=False)


@contextlib.contextmanager
def tutorial(bench: Bench) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [
            sys.executable,
            str(_HERE / "tutorial_feeder.py"),
            str(bench.port),
            bench.servers.rabbitmq_url,
            bench.name,
            "mytable",
            bench.name,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.wait()


class Replicator:
    """A replicator process with an outbox of its own."""

    def __init__(self, bench: Bench, directory: Path, **settings: str) -> None:
        self.http = f"127.0.0.1:{free_port()}"
        self.outbox = directory / f"{bench.name}.db"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("REPLICATOR_")},
            "REPLICATOR_TABLES": f"{bench.name}.mytable",
            "REPLICATOR_RETHINKDB__URL": bench.servers.rethinkdb_url,
            "REPLICATOR_RABBITMQ__URL": bench.servers.rabbitmq_url,
            "REPLICATOR_RABBITMQ__EXCHANGE": bench.name,
            "REPLICATOR_OUTBOX__URL": f"sqlite:///{self.outbox}",
            "REPLICATOR_HTTP__LISTEN": self.http,
            "REPLICATOR_LOG__LEVEL": "warning",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replicator", "run"], env=self._environment
        )

    def wait_until_ready(self, seconds: float = 120) -> float:
        started = time.monotonic()
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                self.get("readyz")
                return time.monotonic() - started
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"not ready after {seconds} seconds")
            time.sleep(0.02)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.http}/{path}", timeout=5) as reply:
            return reply.read().decode()

    def status(self) -> dict:
        return json.loads(self.get("status"))

    def metric(self, name: str) -> float:
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.get("metrics").splitlines()
            if line.startswith((name + " ", name + "{"))
        )

    def memory(self, field: str = "VmRSS") -> float:
        """Return resident memory in MB; ``VmHWM`` is the highest there was."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise LookupError(field)

    def cpu_seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
