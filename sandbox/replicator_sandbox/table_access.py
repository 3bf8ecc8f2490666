"""Tables as a query sees them: a user's table or a system table, with one interface.

Every method checks the permission of the user who asks, so terms need not.
"""

from collections.abc import Iterable
from collections.abc import Sequence as AnySequence

from replicator_sandbox.accounts import Accounts, Place
from replicator_sandbox.changefeed import (
    Feed,
    FeedOptions,
    PointFeed,
    RowsFeed,
    TableFeed,
    Transform,
)
from replicator_sandbox.datum import Datum, decode, encode
from replicator_sandbox.keys import key_bytes
from replicator_sandbox.reql_errors import ReqlError, feed_refused, logic
from replicator_sandbox.spans import KeyRange, Span
from replicator_sandbox.storage import SYSTEM_DATABASE, SYSTEM_DATABASE_ID, Table
from replicator_sandbox.system_tables import SystemTable


class TableAccess:
    """What both kinds of tables have in common."""

    is_table = True
    name: str
    database_name: str
    primary_key: str
    id: str
    place: Place

    def __init__(self, accounts: Accounts, user: str) -> None:
        """Act for ``user``."""
        self.accounts = accounts
        self.user = user

    def require(self, permission: str) -> None:
        """Raise unless the user has ``permission`` on this table."""
        self.accounts.require(self.user, permission, self.place)

    def denied(self) -> ReqlError | None:
        """Return the error for a user who may not read this table now; None: the user may."""
        try:
            self.require("read")
        except ReqlError as err:
            return err
        return None

    def info(self) -> dict[str, Datum]:
        """Return what ``info`` says about the table."""
        self.require("read")
        database = {
            "id": self.place[0],
            "name": self.database_name,
            "type": "DB",
        }
        return {
            "db": database,
            "doc_count_estimates": [self.count()],
            "id": self.id,
            "indexes": [],
            "name": self.name,
            "primary_key": self.primary_key,
            "type": "TABLE",
        }

    def count(self) -> int:
        """Return the number of documents."""
        raise NotImplementedError


class UserTable(TableAccess):
    """A table of documents."""

    def __init__(self, accounts: Accounts, user: str, table: Table) -> None:
        """Give ``user`` access to ``table``."""
        super().__init__(accounts, user)
        self.table = table
        self.name = table.name
        self.database_name = table.database.name
        self.primary_key = table.primary_key
        self.id = table.id
        self.place = (table.database.id, table.id)

    def count(self) -> int:
        """Return the number of documents."""
        self.require("read")
        return len(self.table)

    def read(self, key: bytes) -> bytes | None:
        """Return one document."""
        self.require("read")
        return self.table.get(key)

    def read_to_write(self, key: bytes) -> bytes | None:
        """Return one document that is about to be replaced."""
        return self.table.get(key)

    def put(self, key: bytes, old: bytes | None, new: bytes | None) -> bool:
        """Commit one document; returns whether it changed."""
        return self.table.put(key, old, new)

    def documents(self, span: Span) -> Iterable[bytes]:
        """Return the documents of ``span``, in no promised order."""
        self.require("read")
        if isinstance(span, KeyRange):
            keys = self.table.keys_in(span.low, span.high)
        else:
            keys = [key for key in self.table.keys_in() for _ in range(span.count(key))]
        return self.table.documents(keys)

    def feed(self, span: Span, transforms: AnySequence[Transform], options: FeedOptions) -> Feed:
        """Open a changefeed on a part of the table."""
        if denied := self.denied():
            raise feed_refused(denied)
        feed = TableFeed(self.table, span, transforms, options)
        feed.permission_check = self.denied
        return feed

    def point_feed(self, key: bytes, options: FeedOptions) -> Feed:
        """Open a changefeed on one document."""
        if denied := self.denied():
            raise feed_refused(denied)
        feed = PointFeed(self.table, key, options)
        feed.permission_check = self.denied
        return feed


class SystemTableAccess(TableAccess):
    """A table of the database ``rethinkdb``: its rows are made when they are read."""

    primary_key = "id"

    def __init__(self, accounts: Accounts, user: str, table: SystemTable) -> None:
        """Give ``user`` access to ``table``."""
        super().__init__(accounts, user)
        self.table = table
        self.name = table.name
        self.database_name = SYSTEM_DATABASE
        self.id = table.id
        self.place = (SYSTEM_DATABASE_ID, table.id)

    def count(self) -> int:
        """Return the number of rows."""
        self.require("read")
        return len(self.table.rows())

    def _texts(self) -> dict[bytes, bytes]:
        return {key_bytes(row["id"]): encode(row) for row in self.table.rows()}

    def read(self, key: bytes) -> bytes | None:
        """Return one row."""
        self.require("read")
        return self._texts().get(key)

    def read_to_write(self, key: bytes) -> bytes | None:
        """Return one row that is about to be replaced."""
        return self._texts().get(key)

    def put(self, key: bytes, old: bytes | None, new: bytes | None) -> bool:
        """Make the change that writing this row means.

        Raises:
            ReqlError: the row cannot be written in this way.
        """
        del key
        if old == new:
            return False
        self.table.write(None if old is None else decode(old), None if new is None else decode(new))
        return True

    def documents(self, span: Span) -> Iterable[bytes]:
        """Return the rows of ``span``."""
        self.require("read")
        return [row for key, row in self._texts().items() for _ in range(span.count(key))]

    def feed(self, span: Span, transforms: AnySequence[Transform], options: FeedOptions) -> Feed:
        """Open a changefeed on the rows."""
        self.require("read")
        if self.table.poll is None:
            raise logic(f"Cannot call `changes` on the system table `{self.name}`.")
        rows = RowsFeed(self._shown(transforms), span, options)
        rows.on_close = self.table.watch(lambda: rows.compare_with(self._shown(transforms)))
        rows.permission_check = self.denied
        return rows

    def point_feed(self, key: bytes, options: FeedOptions) -> Feed:
        """Open a changefeed on one row."""
        return self.feed(KeyRange(key, key + b"\0"), (), options)

    def _shown(self, transforms: AnySequence[Transform]) -> dict[bytes, bytes]:
        shown: dict[bytes, bytes] = {}
        for key, row in self._texts().items():
            text: bytes | None = row
            for transform in transforms:
                text = None if text is None else transform(text)
            if text is not None:
                shown[key] = text
        return shown


AnyTable = UserTable | SystemTableAccess
