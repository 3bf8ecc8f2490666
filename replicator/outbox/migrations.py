"""Brings an outbox's schema up to date, and says when it is too new or too old."""

import importlib.resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

from replicator import __version__
from replicator.errors import OutboxOutdated, OutboxTooNew, OutboxUnusable
from replicator.fault_points import FaultPoint, reach
from replicator.outbox.port import Migrated
from replicator.outbox.records import damaged


def migrations_directory() -> Path:
    """Return where the migrations are: in the installed package, or at the project's top level."""
    package = Path(str(importlib.resources.files("replicator")))
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def head() -> str:
    """Return the revision that this program was written for."""
    return _head_of(_scripts())


def current(connection: Connection) -> str | None:
    """Return the revision of an outbox; None when it has no schema yet.

    Raises:
        OutboxUnusable: it has more than one, or one that is not text.
    """
    try:
        revision = MigrationContext.configure(connection).get_current_revision()
    except CommandError as err:
        raise damaged("alembic_version", "there is more than one row") from err
    if not isinstance(revision, str | None):
        raise damaged("alembic_version", f"the revision is {revision!r}")
    return revision


def upgrade(connection: Connection) -> Migrated:
    """Bring the schema to this program's, in the caller's transaction; safe to repeat.

    Raises:
        OutboxTooNew: a newer program wrote it.
        OutboxUnusable: it is another program's.
    """
    scripts = _scripts()
    before = _usable_revision(connection, scripts)
    command.upgrade(_config(connection), "head")
    reach(FaultPoint.MIGRATING)
    return Migrated(before, _head_of(scripts))


def require_current(connection: Connection) -> None:
    """Check that the schema is this program's, without changing anything.

    Raises:
        OutboxTooNew: a newer program wrote it.
        OutboxOutdated: it has to be migrated first.
        OutboxUnusable: it is another program's.
    """
    scripts = _scripts()
    revision, needed = _usable_revision(connection, scripts), _head_of(scripts)
    if revision != needed:
        raise OutboxOutdated(
            f"the outbox has schema {revision or 'none'}, this program needs {needed}",
            hint="run `replicator migrate`",
        )


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _head_of(scripts: ScriptDirectory) -> str:
    revision = scripts.get_current_head()
    if revision is None:
        raise RuntimeError("the migrations have no head")
    return revision


def _usable_revision(connection: Connection, scripts: ScriptDirectory) -> str | None:
    """Return the revision of an outbox, or of a database without tables, which can become one."""
    revision = current(connection)
    if revision is None:
        if set(inspect(connection).get_table_names()) - {"alembic_version"}:
            raise OutboxUnusable(
                f"the database at {connection.engine.url.database} is not an outbox: "
                "it has other tables",
                hint="name another file with --outbox",
            )
    elif revision not in {script.revision for script in scripts.walk_revisions()}:
        raise OutboxTooNew(
            f"the outbox has schema {revision}, written by a newer replicator than this one "
            f"({__version__}, schema {_head_of(scripts)})",
            hint="run the newer version again, or give this one its own --outbox",
        )
    return revision
