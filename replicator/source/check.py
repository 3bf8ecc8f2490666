"""The preflight of RethinkDB: it answers, each table exists and can be read. Changes nothing."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, NamedTuple

from rethinkdb import r

from replicator.domain.model import TableName
from replicator.errors import SettingsInvalid, TableUnusable
from replicator.source.connection import Server, asking, connect
from replicator.source.discovery import SYSTEM, read_names
from replicator.source.driver import close
from replicator.source.projection import FieldRules
from replicator.source.watchdog import Watch, Watchdog

_ANSWER_SECONDS: Final = 10.0


class TableFacts(NamedTuple):
    """What RethinkDB says of a table."""

    id: str
    primary_key: str


class SourceCheck:
    """One connection over which tables are looked at; `connected` makes it."""

    def __init__(self, connection: Any, watch: Watch) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._watch = watch

    def server(self) -> str:
        """Return in words which server answers."""
        with self._asking("the server"):
            found = self._connection.server()
        # `rethinkdb proxy` has no name.
        return f"server {found['name']!r}" if "name" in found else "a proxy"

    def table(self, name: TableName, fields: FieldRules) -> TableFacts:
        """Look at one table as the service does before it opens a feed.

        Raises:
            SourceRefused: no permission to read it.
            TableUnusable: it does not exist.
            SettingsInvalid: ``exclude_fields`` has the primary key.
            FeedAborted, FeedDisconnected: it is not available now.
        """
        with self._asking(name):
            found = r.db(name.database).table(name.table).info().run(self._connection)
        facts = TableFacts(str(found["id"]), str(found["primary_key"]))
        fields.require(facts.primary_key, name)
        return facts

    def require_same(self, tables: Mapping[TableName, str]) -> None:
        """Require that these tables have the ids here that another host has said.

        Raises:
            SettingsInvalid: they do not, so the two hosts are not of one cluster.
            SourceRefused, FeedAborted, FeedDisconnected: see `table`.
        """
        for name, table_id in tables.items():
            try:
                is_same = self.table(name, FieldRules()).id == table_id
            except TableUnusable:
                is_same = False
            if not is_same:
                raise SettingsInvalid(
                    f"{name} is another table here than at the hosts before: this is another "
                    "cluster",
                    hint="name hosts of one cluster only in rethinkdb.url: what the other one "
                    "lacks would be deleted",
                )

    def tables(self, database: str) -> list[TableName]:
        """Return the tables that a database has now, as the service finds them.

        Raises:
            SourceRefused: no permission to read the list.
            TableUnusable: there is no such database.
            FeedAborted, FeedDisconnected: it is not available now.
        """
        with self._asking(SYSTEM):
            names = read_names(self._connection)
            databases = r.db_list().run(self._connection)
        if database not in databases:
            raise TableUnusable(
                f"there is no database {database}",
                hint="check --table and tables[].name, or create it: `replicator run` waits for it",
            )
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
