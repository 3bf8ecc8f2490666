"""An outbox in one SQLite file (`replicator.outbox.port.Database`)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from replicator.fault_points import FaultPoint, reach
from replicator.outbox import migrations
from replicator.outbox.port import Exposure, Migrated, Preflight
from replicator.outbox.sqlite import check, lock, privacy
from replicator.outbox.sqlite.connection import open_engine, open_reader, open_writer
from replicator.outbox.sqlite.failures import translated
from replicator.outbox.sqlite.outbox import SqliteOutbox
from replicator.outbox.sqlite.place import database_path
from replicator.outbox.sqlite.room import is_disk_low


class SqliteDatabase:
    """The outbox in a file; `replicator.outbox.port.Database` describes the verbs."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened or made yet."""
        self._path = path

    @classmethod
    def at(cls, url: URL) -> Self:
        """Return the outbox at a URL of SQLite; raises what `database_path` does."""
        return cls(database_path(url))

    @property
    def place(self) -> str:
        """The path of the file."""
        return str(self._path)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open it for reading; a long statement would keep the write-ahead log from being reset."""
        with translated(self._path), open_reader(self._path).connect() as connection:
            migrations.require_current(connection)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open it for changes, with SQLite's one write lock."""
        with translated(self._path), open_engine(self._path).begin() as connection:
            migrations.require_current(connection)
            yield connection

    def exclusively(self) -> AbstractContextManager[None]:
        """Hold the lock file beside the database."""
        return lock.exclusively(self._path)

    def user(self) -> str | None:
        """Return the number of the process that holds the lock file."""
        return lock.user(self._path)

    def upgrade(self, *, create: bool = False) -> Migrated:
        """Bring the schema to this program's, in one transaction."""
        engine = open_engine(self._path, create=create)
        reach(FaultPoint.OUTBOX_CREATED)
        with translated(self._path), engine.begin() as connection:
            return migrations.upgrade(connection)

    def check(self) -> Preflight:
        """Check the file, its directory and its volume."""
        return check.preflight(self._path)

    def exposure(self) -> Exposure | None:
        """Check the modes of the files and of their directory."""
        return privacy.exposure(self._path)

    def is_nearly_full(self) -> bool:
        """Check the volume: the feeds pause at half of the room that this asks for."""
        try:
            return is_disk_low(self._path.parent, was_low=True)
        except OSError:
            return False  # a volume that is gone is reported as an error of the outbox

    def outbox(self) -> SqliteOutbox:
        """Open the store's connection to the file."""
        return SqliteOutbox(self._path, open_writer(self._path))
