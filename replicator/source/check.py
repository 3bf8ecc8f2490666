"""The preflight of RethinkDB: reachable, each table there and readable. Changes nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from rethinkdb import r

from replicator.domain.model import TableName
from replicator.errors import SettingsInvalid
from replicator.source.changefeed import FieldRules
from replicator.source.connection import Server, close, connect, translated, watched
from replicator.source.discovery import SYSTEM, read_names
from replicator.source.watchdog import Watch, Watchdog

_ANSWER_SECONDS: Final = 10.0


class SourceCheck:
    """One connection, on which tables are looked at; `connected` makes it."""

    def __init__(self, connection: Any, watch: Watch) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._watch = watch

    def server(self) -> str:
        """Return the name of the server that answers."""
        with translated("the server"), self._watched():
            return str(self._connection.server()["name"])

    def table(self, name: TableName, fields: FieldRules) -> str:
        """Look at one table as the service does before it opens a feed; return its primary key.

        Raises:
            SourceRefused: no permission to read it.
            TableUnusable: it does not exist.
            SettingsInvalid: ``exclude_fields`` has the primary key.
            FeedAborted, FeedDisconnected: it is not available now.
        """
        with translated(str(name)), self._watched():
            facts = r.db(name.database).table(name.table).info().run(self._connection)
        primary_key = str(facts["primary_key"])
        if fields.exclude and primary_key in fields.exclude:
            raise SettingsInvalid(
                f"tables[{name}].exclude_fields names {primary_key!r}, the table's primary key",
                hint="the primary key can never be excluded",
            )
        return primary_key

    def tables(self, database: str) -> list[TableName]:
        """Return the tables that a database has now, as the service finds them.

        Raises:
            SourceRefused: no permission to read the list.
            FeedAborted, FeedDisconnected: it is not available now.
        """
        with translated(str(SYSTEM)), self._watched():
            names = read_names(self._connection)
        return sorted(name for name in names if name.database == database)

    def _watched(self) -> Any:
        return watched(self._connection, self._watch, _ANSWER_SECONDS)


@contextmanager
def connected(server: Server) -> Iterator[SourceCheck]:
    """Connect for a check.

    Raises:
        SourceRefused: wrong user or password, or a certificate that cannot be trusted.
        SourceUnavailable: no host answered.
    """
    watchdog = Watchdog()
    connection = connect(server)
    # The driver has no timeout of its own for a query.
    threading.Thread(target=watchdog.run, name="watchdog", daemon=True).start()
    try:
        yield SourceCheck(connection, watchdog.watch())
    finally:
        watchdog.stop()
        close(connection)
