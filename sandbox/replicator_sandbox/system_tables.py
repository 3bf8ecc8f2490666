"""The tables of the database ``rethinkdb`` that the sandbox has.

Rows are computed from the catalog, the accounts and the open feeds whenever they are read. As in
RethinkDB (its caching_cfeed_backend), some tables are polled by their changefeeds once a second
(``poll``); the others report a change at once.
"""

import os
import platform
import time
import uuid
from collections.abc import Callable

from replicator_sandbox.accounts import ADMIN
from replicator_sandbox.datum import Datum
from replicator_sandbox.pseudo_types import time_at
from replicator_sandbox.reql_errors import ReqlError, logic
from replicator_sandbox.state import ServerState
from replicator_sandbox.storage import (
    SERVER_NAME,
    SYSTEM_DATABASE,
    SYSTEM_DATABASE_ID,
    Database,
    Table,
)

Row = dict[str, Datum]
Write = Callable[[Row | None, Row | None], None]


class SystemTable:
    """One system table: how its rows are made, written and watched.

    ``poll`` is "timer" or "event"; None: the table has no changefeeds.
    """

    def __init__(
        self,
        name: str,
        rows: Callable[[], list[Row]],
        write: Write | None = None,
        poll: str | None = "event",
    ) -> None:
        """Describe the table; its id is the same on every server, as in RethinkDB."""
        self.name = name
        self.id = str(uuid.uuid5(uuid.UUID(SYSTEM_DATABASE_ID), name))
        self.rows = rows
        self._write = write
        self.poll = poll
        self._watchers: list[Callable[[], None]] = []

    def write(self, old: Row | None, new: Row | None) -> None:
        """Carry out what replacing row ``old`` by ``new`` means.

        Raises:
            ReqlError: this table cannot be written, or not in this way.
        """
        if self._write is None:
            raise logic(f"It's illegal to write to the `rethinkdb.{self.name}` table.")
        self._write(old, new)

    def watch(self, compare: Callable[[], None]) -> Callable[[], None]:
        """Call ``compare`` whenever rows may have changed, until the result is called."""
        self._watchers.append(compare)
        return lambda: self._watchers.remove(compare)

    def refresh(self) -> None:
        """Let every changefeed on this table compare the rows again."""
        for compare in list(self._watchers):
            compare()


class SystemTables:
    """All system tables of one server."""

    def __init__(self, state: ServerState) -> None:
        """Make the tables that show ``state``."""
        self._state = state
        self._started_at = time.time()
        tables = (
            SystemTable("cluster_config", _cluster_config),
            SystemTable("current_issues", list, poll="timer"),
            SystemTable("db_config", self._db_config, self._write_db_config),
            SystemTable("jobs", self._jobs, self._write_job, poll="timer"),
            SystemTable("permissions", self._permissions),
            SystemTable("server_config", self._server_config),
            SystemTable("server_status", self._server_status),
            SystemTable("table_config", self._table_config, self._write_table_config, "timer"),
            SystemTable("table_status", self._table_status, poll="timer"),
            SystemTable("users", self._users, self._write_user),
        )
        self.by_name = {table.name: table for table in tables}

    def refresh(self, poll: str) -> None:
        """Let the changefeeds on the tables of kind ``poll`` compare their rows again."""
        for table in self.by_name.values():
            if table.poll == poll:
                table.refresh()

    def name_of(self, table_id: str) -> str | None:
        """Return the name of the system table with this id."""
        return next((t.name for t in self.by_name.values() if t.id == table_id), None)

    def _table_config(self) -> list[Row]:
        return [table.config() for table in self._state.catalog.tables()]

    def _table_status(self) -> list[Row]:
        return [table.status() for table in self._state.catalog.tables()]

    def _db_config(self) -> list[Row]:
        return [database.config() for database in self._state.catalog.databases.values()]

    def _users(self) -> list[Row]:
        passwords = self._state.accounts.passwords
        return [{"id": user, "password": passwords[user].is_set} for user in sorted(passwords)]

    def _permissions(self) -> list[Row]:
        everything = dict.fromkeys(("config", "read", "write"), True)
        rows = [
            {"id": [ADMIN], "user": ADMIN, "permissions": {**everything, "connect": True}},
            {
                "id": [ADMIN, SYSTEM_DATABASE_ID],
                "user": ADMIN,
                "database": SYSTEM_DATABASE,
                "permissions": everything,
            },
        ]
        for (user, place), permissions in sorted(self._state.accounts.grants.items()):
            row: Row = {"id": [user, *place], "user": user, "permissions": permissions}
            if place:
                row["database"] = self._database_name(place[0])
            if len(place) > 1:
                row["table"] = self._table_name(place[1])
            rows.append(row)
        return rows

    def _database_name(self, database_id: str) -> Datum:
        if database_id == SYSTEM_DATABASE_ID:
            return SYSTEM_DATABASE
        database = self._database(database_id)
        return None if database is None else database.name

    def _table_name(self, table_id: str) -> Datum:
        table = self._table(table_id)
        return self.name_of(table_id) if table is None else table.name

    def _database(self, database_id: Datum) -> Database | None:
        databases = self._state.catalog.databases.values()
        return next((item for item in databases if item.id == database_id), None)

    def _table(self, table_id: Datum) -> Table | None:
        return next((t for t in self._state.catalog.tables() if t.id == table_id), None)

    def _server_config(self) -> list[Row]:
        return [
            {
                "id": self._state.server_id,
                "name": SERVER_NAME,
                "tags": ["default"],
                "cache_size_mb": "auto",
            }
        ]

    def _server_status(self) -> list[Row]:
        started_at = time_at(self._started_at)
        return [
            {
                "id": self._state.server_id,
                "name": SERVER_NAME,
                "network": {
                    "canonical_addresses": [],
                    "connected_to": {},
                    "hostname": platform.node(),
                    "reql_port": self._state.port,
                    "time_connected": started_at,
                },
                "process": {
                    "argv": [],
                    "cache_size_mb": 0,
                    "pid": os.getpid(),
                    "time_started": started_at,
                    "version": self._state.version,
                },
            }
        ]

    def _jobs(self) -> list[Row]:
        return [job.row() for job in self._state.jobs.values()]

    def _write_job(self, old: Row | None, new: Row | None) -> None:
        if new is not None or old is None:
            raise logic("The `rethinkdb.jobs` system table only allows deletions.")
        job = self._state.jobs.get(old["id"][1])
        if job is not None:
            job.kill()

    def _write_user(self, old: Row | None, new: Row | None) -> None:
        accounts = self._state.accounts
        if new is None:
            user = "" if old is None else old["id"]
            if user == ADMIN:
                raise logic("The user `admin` can't be deleted.")
            accounts.remove(user)
            return
        if "password" not in new:
            raise logic("Expected a field named `password`.")
        unknown = [name for name in sorted(new) if name not in ("id", "password")]
        if unknown:
            raise logic(f"Unexpected key(s) `{'`, `'.join(unknown)}`.")
        password = new["password"]
        if isinstance(password, dict):
            password = password.get("password")
        if isinstance(password, str):
            accounts.set_password(new["id"], password)
        elif password is False:
            accounts.set_password(new["id"], "")
        elif password is not True or old is None:
            raise logic(f"Expected an object, string or boolean for `password`, got {password}.")

    def _write_db_config(self, old: Row | None, new: Row | None) -> None:
        catalog = self._state.catalog
        if old is None and new is not None:
            catalog.create_database(new["name"])
        elif new is None and old is not None:
            catalog.drop_database(old["name"])
        elif old is not None and new is not None:
            database = self._database(old["id"])
            if database is not None:
                catalog.rename_database(database, new["name"])

    def _write_table_config(self, old: Row | None, new: Row | None) -> None:
        catalog = self._state.catalog
        if old is None:
            raise self._no_such_table()
        table = self._table(old["id"])
        if table is None:
            raise self._no_such_table()
        if new is None:
            catalog.drop_table(table.database.name, table.name)
            return
        if new["name"] != table.name:
            catalog.rename_table(table, new["name"])
        table.durability = new["durability"]
        catalog.reshard(table, len(new["shards"]))

    @staticmethod
    def _no_such_table() -> ReqlError:
        return logic(
            "There is no existing table with the given ID. To create a new table by inserting "
            "into `rethinkdb.table_config`, you must let the database generate the primary key "
            "automatically."
        )


def _cluster_config() -> list[Row]:
    return [{"id": "heartbeat", "heartbeat_timeout_secs": 10}]
