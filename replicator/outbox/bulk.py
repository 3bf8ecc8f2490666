"""Inserting many rows with few statements.

sqlite3 gives the interpreter's lock away and takes it back for each row of an ``executemany``;
while the publisher's thread wants it too, that costs more than the insert itself
(docs/performance.md). So a hundred rows go with one statement.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Column, Connection
from sqlalchemy.dialects import sqlite

_ROWS: Final = 100  # of a statement; SQLite compiles it once, and takes at most 32,766 values


class Insertion:
    """An INSERT into some columns of one table, of any number of rows."""

    def __init__(self, *columns: Column[Any], overwritten: Sequence[str] = ()) -> None:
        """Compile it.

        Args:
            columns: what a row's values are for, in their order in the table.
            overwritten: the columns that take the new values when a row of this ``id`` is there.
        """
        self._one = _compiled(columns, 1, overwritten)
        self._many = _compiled(columns, _ROWS, overwritten)

    def run(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows, each with a value for each column."""
        full = len(rows) - len(rows) % _ROWS
        for start in range(0, full, _ROWS):
            values = tuple(chain.from_iterable(rows[start : start + _ROWS]))
            connection.exec_driver_sql(self._many, values)
        if full < len(rows):
            connection.exec_driver_sql(self._one, list(rows[full:]))


def _compiled(columns: Sequence[Column[Any]], rows: int, overwritten: Sequence[str]) -> str:
    table = columns[0].table
    row: Mapping[str, object] = {column.name: 0 for column in columns}
    statement = sqlite.insert(table).values([row] * rows)
    if overwritten:
        new = {name: statement.excluded[name] for name in overwritten}
        statement = statement.on_conflict_do_update(index_elements=[table.c.id], set_=new)
    return str(statement.compile(dialect=sqlite.dialect()))
