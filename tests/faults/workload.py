"""Seeded writers: creates, updates, replaces and deletes, and what the server said to each.

Every state that is written carries a number of its own, ``v``: so a message tells which write it
is about, and a write that was acknowledged can be looked for.
"""

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from rethinkdb import errors as reql
from rethinkdb import r

HOT_KEYS = 5
_HOT_SHARE = 0.25
_RETRY_SECONDS = 0.1


class Write(NamedTuple):
    """One change that the server acknowledged; ``None`` for a version: no document."""

    table: str
    key: str
    old_version: int | None
    new_version: int | None
    sent_at: float  # seconds since the epoch
    acked_at: float


@dataclass(frozen=True)
class Load:
    """How much is written."""

    tables: Sequence[str] = ("t1",)
    keys: int = 300
    writers: int = 3
    pause_seconds: float = 0.01
    batch_share: float = 0.12
    max_in_batch: int = 60
    value_bytes: int = 200


class Server(Protocol):
    """A RethinkDB, of one server or of several."""

    def connect(self, *, timeout: float) -> Any:
        """Open a driver's connection."""
        ...


class Writers:
    """Some connections that write until they are stopped; the log is `writes`."""

    def __init__(self, server: Server, database: str, load: Load, seed: int) -> None:
        self._server = server
        self._database = database
        self._load = load
        self._versions = itertools.count(1)
        self._end = threading.Event()
        self._bursting = threading.Lock()
        self.in_doubt = 0
        self.error: Exception | None = None
        self._logs: list[list[Write]] = [[] for _ in range(load.writers + 1)]
        self._threads = [
            threading.Thread(target=self._run, args=(n, random.Random(f"{seed}-{n}")), daemon=True)
            for n in range(load.writers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs"
        assert self.error is None, f"a writer failed: {self.error!r}"

    @property
    def writes(self) -> list[Write]:
        """What was acknowledged, in no order."""
        return [write for log in self._logs for write in log]

    @property
    def max_document_bytes(self) -> int:
        """The maximum size of a document, including its key and everything else but its text."""
        return self._load.value_bytes + 200

    @property
    def count(self) -> int:
        return sum(map(len, self._logs))

    def fill(self) -> None:
        """Make the documents that are there before anything listens."""
        with self._server.connect(timeout=20) as connection:
            for table in self._load.tables:
                documents = [self.document(key, "") for key in range(self._load.keys)]
                self._table(table).insert(documents, conflict="replace").run(connection)

    def _table(self, name: str) -> Any:
        return r.db(self._database).table(name)

    def document(self, key: int | str, text: str) -> dict[str, Any]:
        """Return a new state of a document, with a number that no other has."""
        return {"id": key, "v": next(self._versions), "text": text}

    def _run(self, number: int, chance: random.Random) -> None:
        log = self._logs[number]
        connection: Any = None
        try:
            while not self._end.wait(chance.uniform(0, 2 * self._load.pause_seconds)):
                try:
                    if connection is None:
                        connection = self._server.connect(timeout=5)
                    self._write(connection, chance, log)
                except (reql.ReqlDriverError, reql.ReqlOpIndeterminateError, OSError):
                    # The server was killed: nobody knows what became of this write.
                    self.in_doubt += 1
                    _close(connection)
                    connection = None
                    self._end.wait(_RETRY_SECONDS)
                except (reql.ReqlOpFailedError, reql.ReqlInternalError):
                    # The table is away, or its primary: it was not written.
                    self._end.wait(_RETRY_SECONDS)
        except Exception as err:  # noqa: BLE001 -- shown by `stop`, in the test's thread
            self.error = err
        finally:
            _close(connection)

    def burst(self, connection: Any, chance: random.Random, table: str) -> int:
        """Write many documents at once, from the thread of a nemesis; returns how many.

        Raises:
            ReqlError: it is not known how much was written.
        """
        keys = {chance.randrange(2 * self._load.keys) for _ in range(1000)}
        documents = [self.document(key, "burst") for key in keys]
        query = self._table(table).insert(documents, conflict="replace", return_changes=True)
        with self._bursting:
            _run_logged(query, connection, table, self._logs[-1])
        return len(documents)

    def write_all(self, connection: Any, keys: Sequence[int]) -> None:
        """Write each of these documents of the first table, durable when the server likes.

        Raises:
            ReqlError: it is not known how much was written.
        """
        documents = [self.document(key, "x" * self._load.value_bytes) for key in keys]
        table = self._load.tables[0]
        query = self._table(table).insert(
            documents, conflict="replace", durability="soft", return_changes=True
        )
        _run_logged(query, connection, table, self._logs[-1])

    def _write(self, connection: Any, chance: random.Random, log: list[Write]) -> None:
        table = chance.choice(self._load.tables)
        _run_logged(self._query(self._table(table), chance), connection, table, log)

    def _query(self, table: Any, chance: random.Random) -> Any:
        load = self._load
        text = "x" * chance.randrange(load.value_bytes)
        if chance.random() < load.batch_share:
            count = chance.randrange(2, load.max_in_batch)
            first = chance.randrange(load.keys)
            if chance.random() < 0.15:
                return table.between(first, first + count).delete(return_changes=True)
            keys = [(first + n) % load.keys for n in range(min(count, load.keys))]
            documents = [self.document(key, text) for key in keys]
            return table.insert(documents, conflict="replace", return_changes=True)
        is_hot = chance.random() < _HOT_SHARE
        key = chance.randrange(HOT_KEYS if is_hot else load.keys)
        action = chance.random()
        if action < 0.35:
            new = self.document(key, text)
            return table.insert(new, conflict="replace", return_changes=True)
        if action < 0.6:
            return table.get(key).update({"v": next(self._versions)}, return_changes=True)
        if action < 0.8:
            new = self.document(key, text)
            return table.get(key).replace(new, return_changes=True)
        return table.get(key).delete(return_changes=True)


def _run_logged(query: Any, connection: Any, table: str, log: list[Write]) -> None:
    sent_at = time.time()
    outcome = query.run(connection)
    acked_at = time.time()
    for change in outcome.get("changes", ()):
        old, new = change["old_val"], change["new_val"]
        key = json.dumps((new or old)["id"])
        log.append(Write(table, key, old and old.get("v"), new and new.get("v"), sent_at, acked_at))


def _close(connection: Any) -> None:
    if connection is not None:
        connection.close(noreply_wait=False)


def read_table(server: Server, database: str, table: str) -> dict[str, Any]:
    """Return what the server has: documents by the JSON text of their key."""
    with server.connect(timeout=20) as connection:
        documents: Iterator[dict[str, Any]] = r.db(database).table(table).run(connection)
        return {json.dumps(document["id"]): document for document in documents}
