"""What each program has of its own on the servers: a database, an exchange, a queue."""

import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import pika
from rethinkdb import r

from benchmarks.servers import Servers

QUEUES = {
    "classic": {"x-queue-type": "classic"},
    "classic-lazy": {"x-queue-type": "classic", "x-queue-mode": "lazy"},
    "classic-v2": {"x-queue-type": "classic", "x-queue-version": 2},
    "quorum": {"x-queue-type": "quorum"},
}
"""Arguments of each kind of queue; it is always durable."""

_POLL_SECONDS = 0.02
_INSERT_AT_ONCE = 1000
_BESIDE_FILLER = 60
"""Bytes of a document that are not its filler."""


class Place:
    """A database with tables, an exchange and a durable queue; all are dropped at the end."""

    def __init__(
        self,
        servers: Servers,
        *,
        is_durable: bool = True,
        queue: str = "classic",
        tables: tuple[str, ...] = ("mytable",),
    ) -> None:
        """Create them.

        ``is_durable`` is the exchange's: the tutorial's own is not. ``queue`` is one of `QUEUES`.
        """
        self.servers = servers
        self.name = f"bench_{uuid.uuid4().hex[:12]}"
        self.tables = tables
        self.url = servers.rabbitmq.url
        address = urlsplit(servers.rethinkdb_url)
        self._reql = r.connect(host=address.hostname, port=servers.rethinkdb_port)
        r.db_create(self.name).run(self._reql)
        for table in tables:
            r.db(self.name).table_create(table).run(self._reql)
        r.db(self.name).wait().run(self._reql)
        self._queue = {"durable": True, "arguments": QUEUES[queue]}
        self.connect()
        self._channel.exchange_declare(self.name, exchange_type="topic", durable=is_durable)
        self._channel.queue_declare(self.name, **self._queue)
        self._channel.queue_bind(self.name, self.name, "#")

    def connect(self) -> None:
        """Connect to the broker, for the first time or after an outage."""
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 0  # nothing serves this connection while changes are inserted
        self._rabbit = pika.BlockingConnection(parameters)
        self._channel = self._rabbit.channel()

    def disconnect(self) -> None:
        """Leave the broker, before it goes away."""
        self._rabbit.close()

    def insert(self, count: int, size: int, *, start: int = 0, **fields: Any) -> None:
        """Insert documents of about ``size`` bytes, in turn into all tables."""
        filler = "x" * max(0, size - _BESIDE_FILLER)
        at_once = min(_INSERT_AT_ONCE, -(-count // len(self.tables)))
        for turn, first in enumerate(range(start, start + count, at_once)):
            documents = [
                {"id": f"document-{n:012d}", "n": n, "filler": filler, **fields}
                for n in range(first, min(first + at_once, start + count))
            ]
            self.insert_documents(documents, self.tables[turn % len(self.tables)])

    def insert_documents(self, documents: list[dict], table: str, *, noreply: bool = False) -> None:
        """Insert documents as they are; returns once they are in the table, unless ``noreply``."""
        # As one string: the driver needs much longer to write a query of many terms.
        text = msgspec.json.encode(documents).decode()
        done = (
            r.db(self.name)
            .table(table)
            .insert(r.json(text), durability="soft")
            .run(self._reql, noreply=noreply)
        )
        if not noreply and done["errors"]:
            raise RuntimeError(done["first_error"])

    def depth(self) -> int:
        return self._channel.queue_declare(self.name, passive=True).method.message_count

    def wait_for_depth(self, count: int, seconds: float, check: Callable[[], None]) -> float:
        """Wait until ``count`` messages are in the queue; returns the seconds that it took.

        ``check`` is called all the while; it raises an error when waiting has become pointless.
        """
        started = time.monotonic()
        while (depth := self.depth()) < count:
            check()
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"{depth} of {count} messages after {seconds} seconds")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - started

    def purge(self) -> None:
        self._channel.queue_purge(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # A broker that is gone took them with it; the tables must be dropped in any case.
        with contextlib.suppress(pika.exceptions.AMQPError):
            self._channel.queue_delete(self.name)
            self._channel.exchange_delete(self.name)
            self._rabbit.close()
        r.db_drop(self.name).run(self._reql)
        self._reql.close(noreply_wait=False)
