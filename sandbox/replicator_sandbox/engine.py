"""The server without its sockets: catalog, accounts, system tables, running feeds."""

import time
import uuid
from collections.abc import Callable

from replicator_sandbox.accounts import Accounts
from replicator_sandbox.changefeed import Feed
from replicator_sandbox.datum import Datum
from replicator_sandbox.protocol import ErrorType
from replicator_sandbox.reql_errors import ReqlError
from replicator_sandbox.storage import SERVER_NAME, Catalog
from replicator_sandbox.system_tables import SystemTables

VERSION = "2.4.4-sandbox"


class Job:
    """An open changefeed as ``rethinkdb.jobs`` shows it."""

    def __init__(self, feed: Feed, user: str, client: tuple[str, int], query: str) -> None:
        """Describe ``feed``, opened by ``user`` from ``client``."""
        self.id = str(uuid.uuid4())
        self.feed = feed
        self._user = user
        self._client = client
        self._query = query
        self._started_at = time.monotonic()

    def row(self) -> dict[str, Datum]:
        """Return the row in ``jobs``."""
        return {
            "id": ["query", self.id],
            "type": "query",
            "servers": [SERVER_NAME],
            "duration_sec": round(time.monotonic() - self._started_at, 6),
            "info": {
                "client_address": self._client[0],
                "client_port": self._client[1],
                "query": self._query,
                "user": self._user,
            },
        }

    def kill(self) -> None:
        """End the changefeed as deleting its row does."""
        self.feed.abort(
            ReqlError("Query terminated by the `rethinkdb.jobs` table.", ErrorType.OP_INDETERMINATE)
        )


class Engine:
    """Everything that queries work on; used from one thread only."""

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        """Start empty; ``schedule`` runs a callable soon, after the current query."""
        self.server_id = str(uuid.uuid4())
        self.version = f"rethinkdb {VERSION}"
        self.port = 0
        self.catalog = Catalog(self._changed)
        self.accounts = Accounts(self._changed)
        self.jobs: dict[str, Job] = {}
        self._schedule = schedule
        self._is_refresh_due = False
        self.system = SystemTables(self)

    def feeds(self) -> list[Feed]:
        """Return every open changefeed."""
        return [job.feed for job in self.jobs.values()]

    def _changed(self) -> None:
        if not self._is_refresh_due:
            self._is_refresh_due = True
            self._schedule(self._refresh)

    def _refresh(self) -> None:
        self._is_refresh_due = False
        self.system.refresh("event")
