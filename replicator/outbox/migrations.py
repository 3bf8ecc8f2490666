"""Bring an outbox's schema up to date, and say when it is too new or too old."""

import importlib.resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect

from replicator.errors import OutboxOutdated, OutboxTooNew, OutboxUnusable
from replicator.fault_points import FaultPoint, reach
from replicator.outbox.records import damaged
from replicator.outbox.sqlite.connection import translated


def migrations_directory() -> Path:
    """Return where the migrations are: inside an installed package, or at the project's top."""
    package = Path(str(importlib.resources.files("replicator")))
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """Return the revision that this program was written for."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the migrations have no head")
    return revision


def current(connection: Connection) -> str | None:
    """Return the revision of an outbox; None when it has no schema yet.

    Raises:
        OutboxUnusable: it has more than one, or one that is no text.
    """
    try:
        revision = MigrationContext.configure(connection).get_current_revision()
    except CommandError as err:
        raise damaged("alembic_version", "there is more than one row") from err
    if not isinstance(revision, str | None):
        raise damaged("alembic_version", f"the revision is {revision!r}")
    return revision


def _refuse_newer(connection: Connection) -> str | None:
    revision = current(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise OutboxTooNew(
            f"the outbox has schema {revision}, written by a newer replicator than this one",
            hint="run the newer version again, or give this one its own --outbox",
        )
    return revision


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to this program's; returns the revision before and after.

    Safe to repeat. All steps are one transaction: a failure leaves the outbox as it was.

    Raises:
        OutboxTooNew: a newer program wrote it.
        OutboxUnusable: it is not a database, or another program's.
        OutboxUnavailable: it cannot be written now.
    """
    reach(FaultPoint.OUTBOX_CREATED)
    with translated(engine.url.database), engine.begin() as connection:
        before = _refuse_newer(connection)
        if before is None and set(inspect(connection).get_table_names()) - {"alembic_version"}:
            # Our tables must not be put among those of another program.
            raise OutboxUnusable(
                f"the database at {engine.url.database} is not an outbox: it has other tables",
                hint="name another file with --outbox",
            )
        command.upgrade(_config(connection), "head")
        reach(FaultPoint.MIGRATING)
    return before, head()


def require_current(connection: Connection) -> None:
    """Check that the schema is this program's, without changing anything.

    Raises:
        OutboxTooNew: a newer program wrote it.
        OutboxOutdated: it has to be migrated first.
    """
    revision = _refuse_newer(connection)
    if revision is None and inspect(connection).get_table_names():
        raise OutboxOutdated(
            "the database is not an outbox: it has tables, but no schema revision",
            hint="name another file with --outbox",
        )
    if revision != head():
        raise OutboxOutdated(
            f"the outbox has schema {revision or 'none'}, this program needs {head()}",
            hint="run `replicator migrate`",
        )
