"""The connection of an SQLite outbox, whose statements can be made to fail."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Failure:
    """The statements that must fail: those with these numbers, counted from 1."""

    def __init__(self, failing: range, code: int, kind: type[BaseException]) -> None:
        self.statements = 0
        self.has_happened = False
        self._failing = failing
        self._code = code
        self._kind = kind

    def count(self) -> None:
        self.statements += 1
        if self.statements in self._failing:
            self.has_happened = True
            error = self._kind("it broke")
            if isinstance(error, sqlite3.Error):
                error.sqlite_errorcode = self._code
            raise error


class FailingConnection:
    """Counts the statements of a connection, and makes one fail before it does anything."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._failure: Failure | None = None

    @contextmanager
    def failing(
        self,
        statement: int | None,
        *,
        many: int = 1,
        code: int = sqlite3.SQLITE_FULL,
        kind: type[BaseException] = sqlite3.OperationalError,
    ) -> Iterator[Failure]:
        """Make ``many`` statements fail, from the Nth in the block on; None: only count them."""
        failing = range(0) if statement is None else range(statement, statement + many)
        self._failure = Failure(failing, code, kind)
        try:
            yield self._failure
        finally:
            self._failure = None

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        self._count()
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        self._count()
        return self._connection.executemany(statement, rows)

    def _count(self) -> None:
        if self._failure is not None:
            self._failure.count()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
