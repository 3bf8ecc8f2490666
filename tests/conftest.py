"""Servers for the whole session, and what each test owns on them: a vhost, a database, an outbox.

RabbitMQ is real: a private node that is started here, since tests block and kill it. RethinkDB is
a real one where there is one (RETHINKDB_URL, or the program on PATH), else the embedded one; the
last lines of a run say which it was.
"""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from replicator_sandbox.host import find_rabbitmq
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator.errors import ServerMissing
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import USED, RethinkServer

# A shell ignores SIGINT in what it starts in the background, and a program inherits that: Ctrl-C
# would do nothing to those that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[PrivateRabbitMQ]:
    """A private node that tests may block, kill and start again. In CI its lack is a failure."""
    if find_rabbitmq() is None:
        text = "rabbitmq-server is not installed"
        if os.environ.get("CI"):
            raise ServerMissing(text, hint="apt-get install rabbitmq-server")
        pytest.skip(text)
    with PrivateRabbitMQ() as node:
        version = ".".join(map(str, node.version))
        USED.add(f"RabbitMQ: real {version}, a private node")
        yield node


@pytest.fixture
def vhost(rabbitmq: PrivateRabbitMQ) -> str:
    """The URL of a virtual host of the test's own."""
    return rabbitmq.add_vhost(f"v{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def rethinkdb() -> Iterator[RethinkServer]:
    """The best RethinkDB there is; nobody kills this one."""
    if url := os.environ.get("RETHINKDB_URL"):
        USED.add("RethinkDB: real, RETHINKDB_URL")
        yield RethinkServer(url)
    elif find_rethinkdb():
        with RealRethinkDB() as server:
            USED.add("RethinkDB: real, started for the tests")
            yield RethinkServer(server.url)
    else:
        with EmbeddedRethinkDB() as server:
            USED.add("RethinkDB: embedded")
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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist: tell the one that prints the last lines."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = sorted(USED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of pytest-xdist is done, or has died and tells nothing."""
    USED.update(getattr(node, "workeroutput", {}).get("servers", []))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say which servers it was, in the very last lines."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        for server in sorted(USED) or ["no server"]:
            reporter.write_line(f"ran against {server}")
