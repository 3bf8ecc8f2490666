"""What a server has: its databases, accounts and open changefeeds."""

import time
import uuid
from collections.abc import Callable

from replicator_sandbox.accounts import Accounts
from replicator_sandbox.changefeed import Feed
from replicator_sandbox.datum import Datum
from replicator_sandbox.protocol import ErrorType
from replicator_sandbox.reql_errors import ReqlError
from replicator_sandbox.storage import SERVER_NAME, Catalog

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


class ServerState:
    """What queries read and change, without the tables that show it; for one thread only."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Start empty; ``on_change`` is called when databases, tables or accounts change."""
        self.server_id = str(uuid.uuid4())
        self.version = f"rethinkdb {VERSION}"
        self.port = 0
        self.catalog = Catalog(on_change)
        self.accounts = Accounts(on_change)
        self.jobs: dict[str, Job] = {}

    def feeds(self) -> list[Feed]:
        """Return every open changefeed."""
        return [job.feed for job in self.jobs.values()]
