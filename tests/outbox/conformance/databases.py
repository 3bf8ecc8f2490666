"""The databases that an outbox can be on, as the conformance suite needs them.

Another database is one more class here and one more member of the fixture ``database``.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, delete, insert, select, text, update

from replicator.outbox import schema
from replicator.outbox.port import Outbox
from replicator.outbox.sqlite.connection import open_engine, open_writer
from replicator.outbox.sqlite.outbox import SqliteOutbox
from tests.support.failing import FailingConnection

Row = tuple[Any, ...]


class Failure(Protocol):
    """How often a block ran a statement, and whether one of them was made to fail."""

    statements: int
    has_happened: bool


class Database(ABC):
    """An outbox, as its one writer and as other processes see it."""

    engine: Engine
    """Of another process."""

    @abstractmethod
    def open(self) -> Outbox:
        """Open the outbox for its one writer, as each process does; the one before is closed."""

    @abstractmethod
    def failing(
        self,
        statement: int | None,
        *,
        passes: bool = True,
        kind: type[BaseException] | None = None,
    ) -> AbstractContextManager[Failure]:
        """Let the writer's Nth statement in a block fail, or none.

        With ``passes``, as what passes by itself; else as what does not. Or with another error,
        which is not the database's.
        """

    @abstractmethod
    def damage(self, statement: str) -> None:
        """Change what is stored in a way that the schema does not allow."""

    @abstractmethod
    def replace(self) -> None:
        """Put an empty database in the place of this one, under the feet of its writer."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    # What other processes see and do. What commands do is tested where they are; here it matters
    # only that it is done by another connection.

    def rows(self, statement: str) -> list[Row]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def contents(self) -> dict[str, list[Row]]:
        """Return everything that is stored."""
        with self.engine.connect() as connection:
            return {
                table.name: [
                    tuple(row) for row in connection.execute(select(table).order_by(table.c.id))
                ]
                for table in schema.metadata.sorted_tables
            }

    @contextmanager
    def other(self) -> Iterator[Connection]:
        """Change something in another process, in one transaction."""
        with self.engine.begin() as connection:
            yield connection

    def redrive(self, *numbers: int) -> None:
        self._set_state(numbers, schema.PENDING, None)

    def park(self, *numbers: int) -> None:
        self._set_state(numbers, schema.PARKED, "operator")

    def _set_state(self, numbers: Sequence[int], state: str, reason: str | None) -> None:
        entries = schema.entries
        changed = update(entries).where(entries.c.id.in_(numbers))
        with self.other() as connection:
            connection.execute(changed.values(state=state, reason=reason))

    def discard(self, *numbers: int) -> None:
        with self.other() as connection:
            connection.execute(delete(schema.entries).where(schema.entries.c.id.in_(numbers)))

    def order(self, **columns: object) -> None:
        """Append an order."""
        with self.other() as connection:
            connection.execute(insert(schema.operations).values(**columns))


class SqliteDatabase(Database):
    """A file in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "outbox.db"
        self.engine = open_engine(self._path, create=True)
        # Takes a tenth of the time of the migrations, which `make check` compares with it.
        schema.metadata.create_all(self.engine)
        self._outbox: SqliteOutbox | None = None
        self._connection: FailingConnection | None = None

    def open(self) -> Outbox:
        self._close_writer()
        self._connection = FailingConnection(open_writer(self._path))
        self._outbox = SqliteOutbox(self._path, self._connection)  # type: ignore[arg-type]
        return self._outbox

    def failing(
        self,
        statement: int | None,
        *,
        passes: bool = True,
        kind: type[BaseException] | None = None,
    ) -> AbstractContextManager[Failure]:
        assert self._connection is not None
        code = sqlite3.SQLITE_FULL if passes else sqlite3.SQLITE_CORRUPT
        error = kind or sqlite3.OperationalError
        return self._connection.failing(statement, code=code, kind=error)

    def damage(self, statement: str) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement)
        connection.close()

    def replace(self) -> None:
        new = Path(f"{self._path}.new")
        with open_engine(new, create=True).connect():
            new.replace(self._path)

    def close(self) -> None:
        self._close_writer()
        self.engine.dispose()

    def _close_writer(self) -> None:
        if self._outbox is not None:
            self._outbox.close()
