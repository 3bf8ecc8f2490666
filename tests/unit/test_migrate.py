"""The schema: from nothing to head, in the project and in an installed wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from replicator.errors import (
    OutboxMissing,
    OutboxOutdated,
    OutboxTooNew,
    OutboxUnavailable,
    OutboxUnusable,
)
from replicator.operators import listing
from replicator.operators.feeds import migrate
from replicator.operators.listing import Selection
from replicator.outbox import migrations
from replicator.outbox.migrations import current, head, migrations_directory
from replicator.outbox.schema import metadata
from replicator.outbox.sqlite import connection as engine_module
from replicator.outbox.sqlite.connection import open_engine
from replicator.outbox.sqlite.database import SqliteDatabase

PROJECT = migrations_directory().parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def database(path: Path) -> SqliteDatabase:
    """An outbox whose file is not made yet."""
    return SqliteDatabase(path)


def tables(path: Path) -> set[str]:
    with open_engine(path).connect() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        return set(rows.scalars())


def read(database: SqliteDatabase) -> None:
    with database.reading():
        pytest.fail("it was read")


def test_from_empty_to_head_is_the_declared_schema(database: SqliteDatabase) -> None:
    assert database.upgrade(create=True) == (None, head())
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert current(connection) == head()


def test_upgrading_again_changes_nothing(database: SqliteDatabase) -> None:
    database.upgrade(create=True)

    assert database.upgrade() == (head(), head())


def test_an_outbox_that_is_not_there_is_made_only_when_asked(
    database: SqliteDatabase, path: Path
) -> None:
    with pytest.raises(OutboxMissing):
        database.upgrade()
    assert not path.exists()


def test_an_outbox_of_the_first_schema_is_migrated_and_goes_on(
    database: SqliteDatabase, path: Path
) -> None:
    with open_engine(path, create=True).begin() as connection:
        command.upgrade(migrations._config(connection), "0001")
        for statement in (
            "INSERT INTO meta VALUES (1, 'abcdefgh', 'a-uuid', 0, 7)",
            """INSERT INTO feeds (id, database_name, table_name, projection, state)
            VALUES (1, 'db', 't', '{}', 'ready')""",
            """INSERT INTO entries
            (id, feed_id, key, op, origin, body, captured_at, next_attempt_at)
            VALUES (7, 1, '1', 'create', 'feed', x'7b7d', 5, 6)""",
        ):
            connection.exec_driver_sql(statement)
    with pytest.raises(OutboxOutdated, match="schema 0001"):
        read(database)

    assert migrate(database) == ("0001", head())
    with database.reading() as connection:
        (entry,) = listing.list_entries(connection, Selection())
        assert (entry.message_id, entry.table) == ("abcdefgh-7", "db.t")
    outbox = database.outbox()
    try:
        prepared = outbox.prepare(now=8)
        assert (prepared.outbox_id, prepared.last_entry) == ("abcdefgh", 7)
        assert [each.number for each in outbox.page(0, max_entries=9, max_bytes=9).entries] == [7]
    finally:
        outbox.close()


def test_a_schema_that_is_too_new_is_refused_and_not_touched(
    database: SqliteDatabase, path: Path
) -> None:
    database.upgrade(create=True)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(OutboxTooNew, match="schema 9999") as refused:
        database.upgrade()
    assert refused.value.hint
    with pytest.raises(OutboxTooNew):
        read(database)
    with open_engine(path).connect() as connection:
        assert current(connection) == "9999"


def test_a_schema_that_was_not_migrated_is_said(database: SqliteDatabase, path: Path) -> None:
    path.touch()

    with pytest.raises(OutboxOutdated, match="schema none"):
        read(database)


def test_another_programs_database_is_refused_and_not_touched(
    database: SqliteDatabase, path: Path
) -> None:
    with open_engine(path, create=True).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customers (id INTEGER PRIMARY KEY)")

    with pytest.raises(OutboxUnusable, match=f"{path} is not an outbox"):
        database.upgrade()
    with pytest.raises(OutboxUnusable, match=f"{path} is not an outbox"):
        read(database)
    assert tables(path) == {"customers"}


def test_a_file_that_is_no_database_is_refused_and_not_touched(
    database: SqliteDatabase, path: Path
) -> None:
    content = b"my diary, which is longer than the header of a database\n" * 40
    path.write_bytes(content)

    with pytest.raises(OutboxUnusable, match="not a database") as refused:
        database.upgrade()
    assert refused.value.hint
    assert path.read_bytes() == content


def test_a_locked_outbox_is_said_at_start(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 1)
    database.upgrade(create=True)

    with database.writing(), pytest.raises(OutboxUnavailable, match="locked"):
        database.upgrade()


def test_a_migration_that_fails_leaves_nothing_behind(
    database: SqliteDatabase, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(migrations, "migrations_directory", lambda: folder)

    with pytest.raises(OutboxUnusable, match="nowhere"):
        database.upgrade(create=True)
    assert tables(path) == set()


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
        "from replicator.outbox import migrations\n"
        "from replicator.outbox.opening import open_database\n"
        "print(migrations.migrations_directory())\n"
        "print(tuple(open_database('sqlite:///outbox.db').upgrade(create=True)))\n"
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
