"""A reader on its own thread, with a list instead of the store."""

import json
import threading
import uuid
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest
from rethinkdb import r

from replicator import retry
from replicator.domain.feed_element import Change
from replicator.domain.items import FeedBatch, FeedClosed, FeedItem, FeedOpened, SnapshotRead
from replicator.domain.model import TableName
from replicator.errors import PermanentError
from replicator.metrics import Metrics
from replicator.retry import Backoff
from replicator.source import changefeed, connection, reader, watchdog
from replicator.source.changefeed import Changefeed, open_changefeed
from replicator.source.connection import Server
from replicator.source.projection import FieldRules
from replicator.source.reader import FeedReader
from replicator.source.watchdog import Watchdog
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

_JOIN_SECONDS = 10


def make_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a reader notice within a second what otherwise takes a minute."""
    # Powers of two: idle turns are added up and compared.
    monkeypatch.setattr(reader, "_WAIT_SECONDS", 0.125)
    monkeypatch.setattr(reader, "_PING_AFTER_SECONDS", 0.25)
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.05, 0.2))
    monkeypatch.setattr(retry, "PERMANENT", Backoff(0.05, 0.2))
    monkeypatch.setattr(changefeed, "_ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(changefeed, "_MESSAGE_SECONDS", 1.0)
    monkeypatch.setattr(changefeed, "_OPEN_SECONDS", 3.0)
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 2)
    monkeypatch.setattr(watchdog, "_TICK_SECONDS", 0.05)


def new_table(driver: Any, primary_key: str = "id") -> TableName:
    """Make a table in a database of its own."""
    name = TableName(f"d{uuid.uuid4().hex[:12]}", "mytable")
    r.db_create(name.database).run(driver)
    r.db(name.database).table_create(name.table, primary_key=primary_key).run(driver)
    r.db(name.database).table(name.table).wait().run(driver)
    return name


def server_of(server: RethinkServer, **changes: Any) -> Server:
    parts = urlsplit(server.url)
    user, password = unquote(parts.username or "admin"), unquote(parts.password or "")
    return Server([(server.host, server.port)], user, password)._replace(**changes)


class ListSink:
    """Keeps what it gets; while it is held, `put` waits."""

    def __init__(self) -> None:
        self.items: list[FeedItem] = []
        self._gate = threading.Event()
        self._gate.set()
        self.is_waited_for = threading.Event()

    def put(self, item: FeedItem) -> bool:
        if not self._gate.is_set():
            self.is_waited_for.set()
            self._gate.wait()
        self.items.append(item)
        return True

    def hold(self) -> None:
        self.is_waited_for.clear()
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()


class RunningReader:
    """Follows a table; on exit it is stopped and has ended."""

    def __init__(
        self,
        server: Server,
        name: TableName,
        fields: FieldRules | None = None,
        *,
        queue_size: int = 100_000,
    ) -> None:
        self.sink = ListSink()
        self.metrics = Metrics()
        self.queue_sizes: list[int] = []
        self.error: PermanentError | None = None
        self._watchdog = Watchdog()
        watch = self._watchdog.watch()

        def opener(queue_size: int) -> Changefeed:
            self.queue_sizes.append(queue_size)
            return open_changefeed(
                server, name, fields or FieldRules(), queue_size=queue_size, watch=watch
            )

        self.reader = FeedReader(1, name, opener, self.sink, self.metrics, queue_size=queue_size)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._watching = threading.Thread(target=self._watchdog.run, daemon=True)

    def _run(self) -> None:
        try:
            self.reader.run()
        except PermanentError as err:
            self.error = err

    def __enter__(self) -> Self:
        self._watching.start()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sink.release()
        self.reader.stop()
        self.thread.join(_JOIN_SECONDS)
        self._watchdog.stop()
        self._watching.join(_JOIN_SECONDS)
        assert not self.thread.is_alive(), "the reader did not stop"

    @property
    def opened(self) -> list[FeedOpened]:
        return [item for item in list(self.sink.items) if isinstance(item, FeedOpened)]

    @property
    def snapshots(self) -> list[SnapshotRead]:
        return [item for item in list(self.sink.items) if isinstance(item, SnapshotRead)]

    @property
    def closed(self) -> list[FeedClosed]:
        return [item for item in list(self.sink.items) if isinstance(item, FeedClosed)]

    @property
    def changes(self) -> list[Change]:
        batches = [item for item in list(self.sink.items) if isinstance(item, FeedBatch)]
        return [change for batch in batches for change in batch.changes]

    def documents(self, primary_key: str = "id") -> dict[str, Any]:
        """Return the table as the last snapshot and the changes after it describe it."""
        items = list(self.sink.items)
        last = max((n for n, item in enumerate(items) if isinstance(item, FeedOpened)), default=0)
        found: dict[str, Any] = {}
        for item in items[last:]:
            for change in item.changes if isinstance(item, FeedBatch) else ():
                if change.type == "remove":
                    found.pop(json.dumps(json.loads(bytes(change.old_val))[primary_key]))
                else:
                    document = json.loads(bytes(change.new_val))
                    found[json.dumps(document[primary_key])] = document
        return found

    def wait_until_ready(self, times: int = 1, seconds: float = 20) -> None:
        """Wait until ``times`` snapshots were read completely."""
        wait_until(lambda: len(self.snapshots) >= times, seconds, f"{times} snapshots")

    def wait_for_changes(self, count: int, seconds: float = 20) -> list[Change]:
        wait_until(lambda: len(self.changes) >= count, seconds, f"{count} changes")
        return self.changes

    def wait_until_closed(self, times: int = 1, seconds: float = 20) -> FeedClosed:
        """Wait until the feed was lost ``times`` times; returns the last loss."""
        wait_until(lambda: len(self.closed) >= times, seconds, f"loss number {times}")
        return self.closed[times - 1]

    def wait_for_refusal(self, seconds: float = 20) -> PermanentError:
        """Return the error that ended it."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the reader still runs"
        assert self.error is not None
        return self.error

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
