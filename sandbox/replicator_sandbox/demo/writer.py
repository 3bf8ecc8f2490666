"""The demo's writer: creates, updates and deletes documents at a steady rate."""

import random
import threading
import time
from collections import Counter
from typing import Any, Final

from rethinkdb import r

from replicator.config import RethinkDBUrl

_BATCHES_PER_SECOND: Final = 20
_WORDS: Final = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")


def connect(url: RethinkDBUrl) -> Any:
    """Connect to the first host."""
    host, port = url.hosts[0]
    return r.connect(host=host, port=port, user=url.user, password=url.password or "")


class Writer:
    """Writes to one table on a thread of its own until it is stopped."""

    def __init__(self, url: RethinkDBUrl, database: str, table: str, *, rate: int) -> None:
        """Name the table; ``rate`` is in documents a second."""
        self._url = url
        self._table = r.db(database).table(table)
        self._rate = rate
        self._random = random.Random(7)  # noqa: S311 -- a demo that is the same every time
        self._versions: dict[str, int] = {}
        self._created = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="writer", daemon=True)
        self.written: Counter[str] = Counter()
        self.error: Exception | None = None

    def fill(self, count: int) -> None:
        """Write the documents that exist before anything else starts."""
        with connect(self._url) as connection:
            self._create(connection, count)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End the writing; safe to repeat."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        try:
            with connect(self._url) as connection:
                self._write(connection)
        except Exception as err:  # noqa: BLE001 -- the loop's boundary: the story looks at it
            self.error = err

    def _write(self, connection: Any) -> None:
        begun_at, done = time.monotonic(), 0
        while not self._stop.wait(1 / _BATCHES_PER_SECOND):
            due = int((time.monotonic() - begun_at) * self._rate)
            # After the machine has paused, do not catch up all at once.
            count = min(due - done, self._rate)
            done = due
            deletes = min(count // 5, len(self._versions) // 2)
            creates = count // 4
            self._create(connection, creates)
            self._update(connection, count - creates - deletes)
            self._delete(connection, deletes)

    def _create(self, connection: Any, count: int) -> None:
        keys = [f"order-{self._created + offset:06}" for offset in range(count)]
        self._created += count
        self._put(connection, keys, "created")

    def _update(self, connection: Any, count: int) -> None:
        self._put(connection, self._some(count), "updated")

    def _put(self, connection: Any, keys: list[str], what: str) -> None:
        documents = []
        for key in keys:
            self._versions[key] = version = self._versions.get(key, 0) + 1
            documents.append(
                {
                    "id": key,
                    "version": version,
                    "item": self._random.choice(_WORDS),
                    "amount": round(self._random.uniform(1, 500), 2),
                }
            )
        if documents:
            self._check(self._table.insert(documents, conflict="replace").run(connection))
        self.written[what] += len(documents)

    def _delete(self, connection: Any, count: int) -> None:
        keys = self._some(count)
        if keys:
            self._check(self._table.get_all(*keys).delete().run(connection))
        for key in keys:
            del self._versions[key]
        self.written["deleted"] += len(keys)

    def _some(self, count: int) -> list[str]:
        return self._random.sample(list(self._versions), min(count, len(self._versions)))

    @staticmethod
    def _check(result: dict[str, Any]) -> None:
        if result.get("errors"):
            raise RuntimeError(result.get("first_error"))
