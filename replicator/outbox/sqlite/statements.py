"""Statements of the hot path: compiled once to text, run on the driver's own connection.

SQLAlchemy declares the tables, makes the texts, and begins and ends the transactions in which they
run. What it does around each statement takes longer than SQLite needs for a small one, and a
change waits for it (docs/performance.md).
"""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Column, Connection
from sqlalchemy.dialects import sqlite

BEGIN: Final = "BEGIN IMMEDIATE"
"""A transaction that takes the write lock at once.

A deferred one that first reads and then writes can fail at once with BUSY when another connection
wrote in between; this one waits.
"""

_IS_WITHIN: Final = "replicator: within a Transaction"  # a key of `Connection.info`

# Rows of a statement: a hundred, then fewer and fewer for the rest. SQLite compiles each once and
# takes at most 32,766 values; Python's module keeps 128 compiled statements.
_ROWS: Final = (100, 32, 16, 8, 4, 2, 1)


class Transaction:
    """A transaction of a connection, without what `Connection.begin` does around one.

    That takes longer than SQLite needs to begin it, and a change waits. Statements of SQLAlchemy's
    that run within it join it: it begins a transaction of its own at the first of them, and the
    engine finds this one under way (`engine._begin_immediately`).
    """

    def __init__(self, connection: Connection) -> None:
        """Bind to a connection that is in no transaction."""
        self._connection = connection
        self._info: dict[Any, Any] = {}

    def __enter__(self) -> Self:
        """Take the write lock; raises what `run` does."""
        run(self._connection, BEGIN)
        self._info = self._connection.info
        self._info[_IS_WITHIN] = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an error; a commit that fails is rolled back and raised."""
        try:
            if kind is None:
                self._commit()
            else:
                self._roll_back()
        finally:
            # SQLAlchemy throws a connection away that an interrupt met, and its info with it.
            self._info.pop(_IS_WITHIN, None)

    def _commit(self) -> None:
        try:
            if self._connection.get_transaction() is not None:
                self._connection.commit()
            else:
                self._connection.dialect.do_commit(_driver(self._connection))
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            # Also when its commit has failed: then it is not active, and takes no other statement.
            if self._connection.get_transaction() is not None:
                self._connection.rollback()
        finally:
            # Nothing is left to do where SQLite, or the line above, has rolled back; and one that
            # was thrown away is closed.
            if not self._connection.invalidated:
                self._connection.dialect.do_rollback(_driver(self._connection))


def is_within_transaction(connection: Connection) -> bool:
    """Whether a `Transaction` of this connection is under way.

    Not the same as the driver's ``in_transaction``: a transaction that could not be rolled back
    must be joined by nobody, or half of a step would be committed with the next.
    """
    return _IS_WITHIN in connection.info


def run(connection: Connection, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
    """Run a statement in the transaction of a connection; returns its rows.

    Raises:
        sqlite3.DatabaseError: see `engine.translated`.
    """
    rows: sqlite3.Cursor = _driver(connection).execute(statement, values)
    return rows


def run_many(
    connection: Connection, statement: str, rows: Sequence[Sequence[object]]
) -> sqlite3.Cursor:
    """Run a statement once for each row of values; raises what `run` does."""
    done: sqlite3.Cursor = _driver(connection).executemany(statement, rows)
    return done


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


class Insertion:
    """An INSERT into some columns of one table, of any number of rows.

    sqlite3 gives the interpreter's lock away and takes it back for each row of an ``executemany``;
    while the publisher's thread wants it too, that costs more than the insert itself. So up to a
    hundred rows go with one statement.
    """

    def __init__(self, *columns: Column[Any], overwritten: Sequence[str] = ()) -> None:
        """Compile it.

        Args:
            columns: what a row's values are for, in their order in the table.
            overwritten: the columns that take the new values when a row of this ``id`` is there.
        """
        self._statements = [(rows, _compiled(columns, rows, overwritten)) for rows in _ROWS]

    def run(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows, each with a value for each column; raises what `run` does."""
        start = 0
        for count, statement in self._statements:
            while len(rows) - start >= count:
                values = tuple(chain.from_iterable(rows[start : start + count]))
                run(connection, statement, values)
                start += count


def _compiled(columns: Sequence[Column[Any]], rows: int, overwritten: Sequence[str]) -> str:
    table = columns[0].table
    row: Mapping[str, object] = {column.name: 0 for column in columns}
    statement = sqlite.insert(table).values([row] * rows)
    if overwritten:
        new = {name: statement.excluded[name] for name in overwritten}
        statement = statement.on_conflict_do_update(index_elements=[table.c.id], set_=new)
    return str(statement.compile(dialect=sqlite.dialect()))
