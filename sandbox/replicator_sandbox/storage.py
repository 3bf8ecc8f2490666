"""Databases, tables and documents, in memory.

A document is kept as the bytes of its JSON text under the sortable bytes of its key, so that
reads and changefeeds only copy bytes. A table has eight hash shards as in RethinkDB, each with
its own counter of writes (its stamp) and its keys in order. A changefeed reads every shard in key
order, so it knows which part of it was read already.
"""

import uuid
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Protocol

from replicator_sandbox.datum import Datum, decode, equal
from replicator_sandbox.keys import HIGHEST, LOWEST
from replicator_sandbox.reql_errors import ReqlError, op_failed

SHARD_COUNT = 8
SYSTEM_DATABASE = "rethinkdb"
SYSTEM_DATABASE_ID = "b99b9572-8e53-5fef-9a2b-5e6aba3edf1c"
SERVER_NAME = "sandbox"


class Watcher(Protocol):
    """What a table informs of its writes: an open changefeed."""

    def on_write(
        self, shard: int, stamp: int, key: bytes, old: bytes | None, new: bytes | None
    ) -> None:
        """Take note of one committed write."""

    def abort(self, error: ReqlError) -> None:
        """End the changefeed with ``error``."""


class Shard:
    """One eighth of a table: its documents, their keys in order, its count of writes."""

    __slots__ = ("documents", "keys", "stamp")

    def __init__(self) -> None:
        """Start empty."""
        self.documents: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.stamp = 0

    def apply(self, key: bytes, new: bytes | None) -> int:
        """Store or delete one document and return the stamp of this write."""
        if new is None:
            del self.documents[key]
            del self.keys[bisect_left(self.keys, key)]
        else:
            if key not in self.documents:
                if not self.keys or key > self.keys[-1]:
                    self.keys.append(key)
                else:
                    insort(self.keys, key)
            self.documents[key] = new
        stamp = self.stamp
        self.stamp += 1
        return stamp


class Table:
    """One table: its configuration, its shards and the changefeeds that watch it."""

    def __init__(
        self, database: "Database", name: str, primary_key: str, durability: str, shards: int
    ) -> None:
        """Make an empty table of ``database``."""
        self.id = str(uuid.uuid4())
        self.database = database
        self.name = name
        self.primary_key = primary_key
        self.durability = durability
        self.shard_count = shards
        self.shards = [Shard() for _ in range(SHARD_COUNT)]
        self.watchers: list[Watcher] = []

    def get(self, key: bytes) -> bytes | None:
        """Return the document under ``key``."""
        return self.shards[shard_of(key)].documents.get(key)

    def put(self, key: bytes, old: bytes | None, new: bytes | None) -> bool:
        """Commit one document (``new`` None deletes) and inform the changefeeds.

        Returns False, and informs nobody, if RethinkDB treats old and new as the same value.
        """
        if old == new or (old is not None and new is not None and _same(old, new)):
            return False
        index = shard_of(key)
        stamp = self.shards[index].apply(key, new)
        for watcher in self.watchers:
            watcher.on_write(index, stamp, key, old, new)
        return True

    def __len__(self) -> int:
        """Return the number of documents."""
        return sum(len(shard.documents) for shard in self.shards)

    def keys_in(self, low: bytes = LOWEST, high: bytes = HIGHEST) -> list[bytes]:
        """Return the keys in ``[low, high)``, shard by shard: not in the order of keys."""
        found: list[bytes] = []
        for shard in self.shards:
            keys = shard.keys
            found += keys[bisect_left(keys, low) : bisect_left(keys, high)]
        return found

    def documents(self, keys: list[bytes]) -> Iterator[bytes]:
        """Return those documents of ``keys`` that still exist when they are read."""
        for key in keys:
            document = self.get(key)
            if document is not None:
                yield document

    def abort_feeds(self, error: Callable[[], ReqlError]) -> None:
        """End every changefeed on this table."""
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher.abort(error())

    def config(self) -> dict[str, Datum]:
        """Return the row of this table in ``table_config``."""
        shard = {
            "primary_replica": SERVER_NAME,
            "replicas": [SERVER_NAME],
            "nonvoting_replicas": [],
        }
        return {
            "id": self.id,
            "db": self.database.name,
            "name": self.name,
            "primary_key": self.primary_key,
            "durability": self.durability,
            "indexes": [],
            "shards": [shard] * self.shard_count,
            "write_acks": "majority",
            "write_hook": None,
        }

    def status(self) -> dict[str, Datum]:
        """Return the row of this table in ``table_status``."""
        shard = {
            "primary_replicas": [SERVER_NAME],
            "replicas": [{"server": SERVER_NAME, "state": "ready"}],
        }
        return {
            "id": self.id,
            "db": self.database.name,
            "name": self.name,
            "raft_leader": SERVER_NAME,
            "shards": [shard] * self.shard_count,
            "status": {
                "all_replicas_ready": True,
                "ready_for_outdated_reads": True,
                "ready_for_reads": True,
                "ready_for_writes": True,
            },
        }


class Database:
    """A named set of tables."""

    def __init__(self, name: str) -> None:
        """Make an empty database."""
        self.id = str(uuid.uuid4())
        self.name = name
        self.tables: dict[str, Table] = {}

    def config(self) -> dict[str, Datum]:
        """Return the row of this database in ``db_config``."""
        return {"id": self.id, "name": self.name}


class Catalog:
    """All databases; calls ``on_change`` when a database or a table comes, changes or goes."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Start as a new server does, with the empty database ``test``."""
        self.databases: dict[str, Database] = {"test": Database("test")}
        self._on_change = on_change

    def database(self, name: str) -> Database:
        """Return the database called ``name``."""
        found = self.databases.get(name)
        if found is None:
            raise op_failed(f"Database `{name}` does not exist.")
        return found

    def table(self, database: str, name: str) -> Table:
        """Return the table called ``name`` in ``database``."""
        found = self.database(database).tables.get(name)
        if found is None:
            raise op_failed(f"Table `{database}.{name}` does not exist.")
        return found

    def tables(self) -> Iterator[Table]:
        """Return every table of every database."""
        for database in self.databases.values():
            yield from database.tables.values()

    def create_database(self, name: str) -> Database:
        """Add a database."""
        if name in self.databases or name == SYSTEM_DATABASE:
            raise op_failed(f"Database `{name}` already exists.")
        self.databases[name] = Database(name)
        self._on_change()
        return self.databases[name]

    def drop_database(self, name: str) -> Database:
        """Remove a database with its tables; their changefeeds end."""
        if name == SYSTEM_DATABASE:
            raise op_failed(f"Database `{name}` is special; you can't delete it.")
        database = self.database(name)
        for table in database.tables.values():
            table.abort_feeds(feed_unavailable)
        del self.databases[name]
        self._on_change()
        return database

    def create_table(
        self, database: str, name: str, primary_key: str, durability: str, shards: int
    ) -> Table:
        """Add a table."""
        if database == SYSTEM_DATABASE:
            raise op_failed(f"Database `{database}` is special; you can't create new tables in it.")
        tables = self.database(database).tables
        if name in tables:
            raise op_failed(f"Table `{database}.{name}` already exists.")
        tables[name] = Table(self.database(database), name, primary_key, durability, shards)
        self._on_change()
        return tables[name]

    def drop_table(self, database: str, name: str) -> Table:
        """Remove a table; its changefeeds end."""
        if database == SYSTEM_DATABASE:
            raise op_failed(f"Database `{database}` is special; you can't drop tables in it.")
        table = self.table(database, name)
        del self.database(database).tables[name]
        table.abort_feeds(feed_unavailable)
        self._on_change()
        return table

    def rename_table(self, table: Table, name: str) -> None:
        """Give a table another name; its changefeeds stay open."""
        tables = table.database.tables
        if name in tables:
            raise op_failed(f"Table `{table.database.name}.{name}` already exists.")
        del tables[table.name]
        table.name = name
        tables[name] = table
        self._on_change()

    def rename_database(self, database: Database, name: str) -> None:
        """Give a database another name; changefeeds on its tables stay open."""
        if name in self.databases or name == SYSTEM_DATABASE:
            raise op_failed(f"Database `{name}` already exists.")
        del self.databases[database.name]
        database.name = name
        self.databases[name] = database
        self._on_change()

    def reshard(self, table: Table, shards: int) -> None:
        """Change the number of shards, which ends every changefeed on the table."""
        if shards != table.shard_count:
            table.shard_count = shards
            table.abort_feeds(feed_unavailable)
            self._on_change()


def shard_of(key: bytes) -> int:
    """Return the hash shard of ``key``."""
    return zlib.crc32(key) % SHARD_COUNT


def feed_unavailable() -> ReqlError:
    """Return the error that ends a changefeed whose table went away or moved."""
    return op_failed("Changefeed aborted (unavailable).")


def _same(old: bytes, new: bytes) -> bool:
    """Return whether two different texts are one value, which only times and -0.0 can be."""
    if b'"TIME"' in old or b"-0.0" in old or b"-0.0" in new:
        return equal(decode(old), decode(new))
    return False
