"""Opens the outbox that a URL names: the only code that chooses a kind of database."""

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from replicator.errors import OutboxUnusable
from replicator.outbox.port import Database
from replicator.outbox.sqlite.database import SqliteDatabase

_KINDS: Final[Mapping[str, Callable[[URL], Database]]] = {"sqlite": SqliteDatabase.at}


def open_database(url: str) -> Database:
    """Return the outbox at an SQLAlchemy URL; nothing is opened or made yet.

    Raises:
        OutboxUnusable: it is not such a URL, its database is not supported, or an outbox cannot
            be at this place.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as err:
        raise OutboxUnusable(
            "the outbox url is not an SQLAlchemy URL", hint="for example sqlite:///replicator.db"
        ) from err
    kind = _KINDS.get(parsed.get_backend_name())
    if kind is None:
        raise OutboxUnusable(
            f"the outbox cannot be on {parsed.get_backend_name()}: this version supports SQLite",
            hint="set outbox.url to sqlite:///PATH",
        )
    return kind(parsed)
