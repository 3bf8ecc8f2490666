"""Servers for the whole session, and what each test owns on them: a vhost, a database, an outbox.

RabbitMQ is real: RABBITMQ_URL, or a private node that is started here. RethinkDB is a real one
where there is one (RETHINKDB_URL, or the program on PATH), else the embedded one; the last lines
of a run say which it was.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from replicator.errors import ServerMissing
from replicator.sandbox import EmbeddedRethinkDB
from replicator.sandbox.rabbitmq import PrivateRabbitMQ, find_rabbitmq
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import RethinkServer

_USED: dict[str, str] = {}


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[PrivateRabbitMQ]:
    """A private node that tests may block, kill and start again. In CI its lack is a failure."""
    if find_rabbitmq() is None:
        text = "rabbitmq-server is not installed"
        if os.environ.get("CI"):
            raise ServerMissing(text, hint="apt-get install rabbitmq-server")
        pytest.skip(text)
    with PrivateRabbitMQ() as node:
        _USED["RabbitMQ"] = "real, a private node"
        yield node


@pytest.fixture
def vhost(rabbitmq: PrivateRabbitMQ) -> str:
    """The URL of a virtual host of the test's own."""
    return rabbitmq.add_vhost(f"v{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def rethinkdb() -> Iterator[RethinkServer]:
    """The best RethinkDB there is; nobody kills this one."""
    if url := os.environ.get("RETHINKDB_URL"):
        _USED["RethinkDB"] = "real, RETHINKDB_URL"
        yield RethinkServer(url)
    elif find_rethinkdb():
        with RealRethinkDB() as server:
            _USED["RethinkDB"] = "real, started for the tests"
            yield RethinkServer(server.url)
    else:
        with EmbeddedRethinkDB() as server:
            _USED["RethinkDB"] = "embedded (no `rethinkdb` on PATH, no RETHINKDB_URL)"
            yield RethinkServer(server.url)


@pytest.fixture
def connection(rethinkdb: RethinkServer) -> Iterator[Any]:
    """A connection of the driver."""
    opened = rethinkdb.connect()
    yield opened
    opened.close(noreply_wait=False)


@pytest.fixture
def database(connection: Any) -> Iterator[str]:
    """The name of a database of the test's own, with an empty table ``mytable``."""
    name = f"d{uuid.uuid4().hex[:12]}"
    r.db_create(name).run(connection)
    r.db(name).table_create("mytable").run(connection)
    r.db(name).table("mytable").wait().run(connection)
    yield name
    r.db_drop(name).run(connection)


@pytest.fixture
def replicator(
    rethinkdb: RethinkServer, vhost: str, database: str, tmp_path: Path
) -> Iterator[ReplicatorProcess]:
    """A replicator of the test's own table, not started yet; it is stopped after the test."""
    process = ReplicatorProcess(
        tmp_path,
        {
            "TABLES": f"{database}.mytable",
            "RETHINKDB__URL": rethinkdb.url,
            "RABBITMQ__URL": vhost,
        },
    )
    yield process
    process.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for server, kind in sorted(_USED.items()):
        terminalreporter.write_line(f"ran against {server}: {kind}")
    if not _USED:
        terminalreporter.write_line("ran against no server")
