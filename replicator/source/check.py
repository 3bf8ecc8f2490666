"""The preflight of RethinkDB: it answers, each table exists and can be read. Changes nothing."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from rethinkdb import r

from replicator.domain.model import TableName
from replicator.source.connection import Server, asking, connect
from replicator.source.discovery import SYSTEM, read_names
from replicator.source.driver import close
from replicator.source.projection import FieldRules
from replicator.source.watchdog import Watch, Watchdog

_ANSWER_SECONDS: Final = 10.0


class SourceCheck:
    """One connection over which tables are looked at; `connected` makes it."""

    def __init__(self, connection: Any, watch: Watch) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._watch = watch

    def server(self) -> str:
        """Return the name of the server that answers."""
        with self._asking("the server"):
            return str(self._connection.server()["name"])

    def table(self, name: TableName, fields: FieldRules) -> str:
        """Look at one table as the service does before it opens a feed.

        Returns the name of its primary key.

        Raises:
            SourceRefused: no permission to read it.
            TableUnusable: it does not exist.
            SettingsInvalid: ``exclude_fields`` has the primary key.
            FeedAborted, FeedDisconnected: it is not available now.
        """
        with self._asking(name):
            facts = r.db(name.database).table(name.table).info().run(self._connection)
        primary_key = str(facts["primary_key"])
        fields.require(primary_key, name)
        return primary_key

    def tables(self, database: str) -> list[TableName]:
        """Return the tables that a database has now, as the service finds them.

        Raises:
            SourceRefused: no permission to read the list.
            FeedAborted, FeedDisconnected: it is not available now.
        """
        with self._asking(SYSTEM):
            names = read_names(self._connection)
        return sorted(name for name in names if name.database == database)

    def _asking(self, table: object) -> AbstractContextManager[None]:
        return asking(self._connection, self._watch, _ANSWER_SECONDS, table)


@contextmanager
def connected(server: Server) -> Iterator[SourceCheck]:
    """Connect for a check, whose every query has a limit of time.

    Raises:
        SourceRefused: wrong user or password, or a certificate that cannot be trusted.
        SourceUnavailable: no host answered.
    """
    watchdog = Watchdog()
    connection = connect(server)
    threading.Thread(target=watchdog.run, name="watchdog", daemon=True).start()
    try:
        yield SourceCheck(connection, watchdog.watch())
    finally:
        watchdog.stop()
        close(connection)
