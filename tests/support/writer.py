"""A writer that creates, updates and deletes documents until it is stopped, from a seed."""

import json
import random
import threading
from typing import Any, Self

from rethinkdb import r

from tests.support.servers import RethinkServer


class Writer:
    """Writes on a thread of its own; the seed determines what it writes, but not when."""

    def __init__(self, server: RethinkServer, database: str, *, seed: int, keys: int = 200) -> None:
        self._connection = server.connect()
        self._table = r.db(database).table("mytable")
        self._random = random.Random(seed)
        self._keys = keys
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.writes = 0
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(30)
        if self._connection.is_open():
            self._connection.close(noreply_wait=False)
        assert self.error is None, f"the writer failed: {self.error!r}"

    def _run(self) -> None:
        try:
            while not self._end.wait(0.001):
                self._write()
                self.writes += 1
        except Exception as err:  # noqa: BLE001 -- shown by `stop`, in the test's thread
            self.error = err

    def _write(self) -> None:
        # A few keys are hot, so that many versions of one document are on their way at once.
        key = self._random.randrange(self._keys) if self._random.random() < 0.7 else 0
        action = self._random.random()
        document = {"id": key, "n": self.writes, "text": "x" * self._random.randrange(300)}
        if action < 0.6:
            query = self._table.insert(document, conflict="replace")
        elif action < 0.8:
            query = self._table.get(key).update({"n": self.writes})
        else:
            query = self._table.get(key).delete()
        query.run(self._connection, durability="soft")


def truth(connection: Any, database: str) -> dict[str, Any]:
    """Return the table as the server has it: documents by the JSON text of their key."""
    documents = r.db(database).table("mytable").run(connection)
    return {json.dumps(document["id"], sort_keys=True): document for document in documents}
