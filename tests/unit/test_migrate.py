"""The schema: from nothing to head, in the project and in an installed wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine

from replicator.errors import OutboxOutdated, OutboxTooNew, OutboxUnavailable, OutboxUnusable
from replicator.outbox import migrations as migrate
from replicator.outbox.migrations import current, head, migrations_directory, upgrade
from replicator.outbox.schema import metadata
from replicator.outbox.sqlite import connection as engine_module
from replicator.outbox.sqlite.connection import open_engine

PROJECT = migrations_directory().parent


def new(tmp_path: Path) -> Engine:
    return open_engine(f"sqlite:///{tmp_path}/outbox.db", create=True)


def tables(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        return set(rows.scalars())


def test_from_empty_to_head_is_the_declared_schema(tmp_path: Path) -> None:
    engine = new(tmp_path)

    assert upgrade(engine) == (None, head())
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert current(connection) == head()
        migrate.require_current(connection)


def test_upgrading_again_changes_nothing(tmp_path: Path) -> None:
    engine = new(tmp_path)
    upgrade(engine)

    assert upgrade(engine) == (head(), head())


def test_a_schema_that_is_too_new_is_refused_and_not_touched(tmp_path: Path) -> None:
    engine = new(tmp_path)
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(OutboxTooNew, match="schema 9999") as refused:
        upgrade(engine)
    assert refused.value.hint
    with engine.connect() as connection:
        with pytest.raises(OutboxTooNew):
            migrate.require_current(connection)
        assert current(connection) == "9999"


def test_a_schema_that_was_not_migrated_is_said(tmp_path: Path) -> None:
    with new(tmp_path).connect() as connection, pytest.raises(OutboxOutdated, match="schema none"):
        migrate.require_current(connection)


def test_another_programs_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    engine = new(tmp_path)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customers (id INTEGER PRIMARY KEY)")

    with pytest.raises(OutboxUnusable, match="not an outbox"):
        upgrade(engine)
    with engine.connect() as connection, pytest.raises(OutboxOutdated, match="not an outbox"):
        migrate.require_current(connection)
    assert tables(engine) == {"customers"}


def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    content = b"my diary, which is longer than the header of a database\n" * 40
    (tmp_path / "outbox.db").write_bytes(content)

    with pytest.raises(OutboxUnusable, match="not a database") as refused:
        upgrade(new(tmp_path))
    assert refused.value.hint
    assert (tmp_path / "outbox.db").read_bytes() == content


def test_a_locked_outbox_is_said_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 1)
    engine = new(tmp_path)
    upgrade(engine)

    with engine.begin(), pytest.raises(OutboxUnavailable, match="locked"):
        upgrade(engine)


def test_a_migration_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "versions/0001_initial.py"):
        (folder / name).write_text((migrations_directory() / name).read_text())
    (folder / "versions" / "0002_broken.py").write_text(
        "from alembic import op\n"
        "revision, down_revision = '0002', '0001'\n"
        "branch_labels = depends_on = None\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE half (id INTEGER)')\n"
        "    op.execute('SELECT * FROM nowhere')\n"
    )
    monkeypatch.setattr(migrate, "migrations_directory", lambda: folder)
    engine = new(tmp_path)

    with pytest.raises(OutboxUnusable, match="nowhere"):
        upgrade(engine)
    assert tables(engine) == set()


def test_an_installed_wheel_can_make_its_outbox(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = (
        "from replicator.outbox import migrate\n"
        "from replicator.outbox.sqlite.connection import open_engine\n"
        "print(migrate.migrations_directory())\n"
        "print(migrate.upgrade(open_engine('sqlite:///outbox.db', create=True)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        str(installed / "replicator" / "migrations"),
        str((None, head())),
    ]
