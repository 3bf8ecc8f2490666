"""Statements of the hot path: compiled once to text, run on the driver's own connection.

SQLAlchemy declares the tables, makes the texts, and begins and ends the transactions in which they
run. What it does around each statement takes longer than SQLite needs for a small one, and a
change waits for it (docs/performance.md).
"""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Column, Connection
from sqlalchemy.dialects import sqlite

_ROWS: Final = 100  # of a statement; SQLite compiles it once, and takes at most 32,766 values


def run(connection: Connection, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
    """Run a statement in the transaction of a connection; returns its rows.

    Raises:
        sqlite3.DatabaseError: see `engine.translated`.
    """
    driver: Any = connection.connection.driver_connection
    rows: sqlite3.Cursor = driver.execute(statement, values)
    return rows


def run_many(
    connection: Connection, statement: str, rows: Sequence[Sequence[object]]
) -> sqlite3.Cursor:
    """Run a statement once for each row of values; raises what `run` does."""
    driver: Any = connection.connection.driver_connection
    done: sqlite3.Cursor = driver.executemany(statement, rows)
    return done


class Insertion:
    """An INSERT into some columns of one table, of any number of rows.

    sqlite3 gives the interpreter's lock away and takes it back for each row of an ``executemany``;
    while the publisher's thread wants it too, that costs more than the insert itself. So a hundred
    rows go with one statement.
    """

    def __init__(self, *columns: Column[Any], overwritten: Sequence[str] = ()) -> None:
        """Compile it.

        Args:
            columns: what a row's values are for, in their order in the table.
            overwritten: the columns that take the new values when a row of this ``id`` is there.
        """
        self._one = _compiled(columns, 1, overwritten)
        self._many = _compiled(columns, _ROWS, overwritten)

    def run(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows, each with a value for each column; raises what `run` does."""
        full = len(rows) - len(rows) % _ROWS
        for start in range(0, full, _ROWS):
            run(connection, self._many, tuple(chain.from_iterable(rows[start : start + _ROWS])))
        if full < len(rows):
            run_many(connection, self._one, rows[full:])


def _compiled(columns: Sequence[Column[Any]], rows: int, overwritten: Sequence[str]) -> str:
    table = columns[0].table
    row: Mapping[str, object] = {column.name: 0 for column in columns}
    statement = sqlite.insert(table).values([row] * rows)
    if overwritten:
        new = {name: statement.excluded[name] for name in overwritten}
        statement = statement.on_conflict_do_update(index_elements=[table.c.id], set_=new)
    return str(statement.compile(dialect=sqlite.dialect()))
