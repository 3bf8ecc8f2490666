"""Each test runs on each database that an outbox can be on, with an outbox of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.outbox.port import Outbox
from tests.outbox.conformance.databases import Database, SqliteDatabase
from tests.outbox.conformance.steps import NAME

DATABASES = {"sqlite": SqliteDatabase}


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the schema of an outbox and nothing in it."""
    made = DATABASES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    """The outbox as its one writer has it, with an identity and one feed."""
    opened = database.open()
    opened.prepare(now=1)
    opened.register(NAME, "{}")
    return opened
