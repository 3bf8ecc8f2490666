"""What errors of SQLite mean, as errors of this project: what passes by itself, and what to do.

A cause that the code does not name is not guessed: SQLite's own words are always there.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy.exc import DatabaseError, MultipleResultsFound

from replicator.errors import OutboxUnavailable, OutboxUnusable


class _Meaning(NamedTuple):
    kind: type[OutboxUnavailable | OutboxUnusable]
    words: str
    hint: str


_PRIMARY_CODE: Final = 0xFF  # the rest of a code is a detail of it
_MOVE_AWAY: Final = "move the file away: a new outbox starts with a new snapshot"
_LOCKED: Final = _Meaning(
    OutboxUnavailable,
    "is locked by another program",
    "try again; end what else has the file open, such as sqlite3",
)
_PASSES: Final = "cannot be used now"
# By SQLite's primary result code (sqlite.org/rescode.html).
_MEANINGS: Final[Mapping[int, _Meaning]] = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_NOMEM: _Meaning(OutboxUnavailable, _PASSES, "give the process more memory"),
    sqlite3.SQLITE_INTERRUPT: _Meaning(OutboxUnavailable, _PASSES, "try again"),
    # A full volume is this too, when the file of the log's index cannot grow.
    sqlite3.SQLITE_IOERR: _Meaning(
        OutboxUnavailable,
        "cannot be read or written now",
        "see whether its volume has free space, and what the system's log says of it",
    ),
    sqlite3.SQLITE_FULL: _Meaning(
        OutboxUnavailable, "cannot be written now", "free space on its volume"
    ),
    sqlite3.SQLITE_CANTOPEN: _Meaning(
        OutboxUnavailable,
        "cannot be opened now",
        "allow this user to read and write the file, its -wal and -shm and their directory",
    ),
    sqlite3.SQLITE_PROTOCOL: _Meaning(
        OutboxUnavailable,
        "cannot be locked now",
        "put it on a local or block volume: some network file systems have no locks for SQLite",
    ),
    sqlite3.SQLITE_READONLY: _Meaning(
        OutboxUnusable,
        "is read-only",
        "allow this user to write the file and its directory",
    ),
    sqlite3.SQLITE_CORRUPT: _Meaning(OutboxUnusable, "is damaged", _MOVE_AWAY),
}
_UNNAMED: Final = _Meaning(
    OutboxUnusable, "cannot be used", f"name another file with --outbox, or {_MOVE_AWAY}"
)


@contextmanager
def translated(path: object = None) -> Iterator[None]:
    """Turn errors of the database into this project's own.

    Raises:
        OutboxUnavailable: the failure passes by itself (disk full, locked, I/O error). The
            transaction was rolled back, so it is safe to repeat.
        OutboxUnusable: it does not pass (not a database, corrupt, read-only).
    """
    try:
        yield
    except DatabaseError as err:
        raise _translate(err.orig, _at(path)) from err
    except sqlite3.DatabaseError as err:
        raise _translate(err, _at(path)) from err
    except UnicodeDecodeError as err:
        # SQLite's message quotes the damaged schema, and Python's module decodes it as text.
        raise OutboxUnusable(
            f"the outbox{_at(path)} is damaged: {err.reason} in SQLite's error message",
            hint=_MOVE_AWAY,
        ) from err
    except MultipleResultsFound as err:
        raise OutboxUnusable(
            f"the outbox{_at(path)} is damaged: it has two rows where only one can be",
            hint=_MOVE_AWAY,
        ) from err


def _at(path: object) -> str:
    return f" at {path}" if path else ""


def _translate(error: Any, where: str) -> OutboxUnavailable | OutboxUnusable:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    meaning = _MEANINGS.get(code, _UNNAMED)
    error = " ".join(str(error).split())  # it may quote a damaged schema with its line ends
    return meaning.kind(f"the outbox{where} {meaning.words}: {error}", hint=meaning.hint)
