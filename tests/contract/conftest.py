"""Every test here runs twice: on the embedded RethinkDB and on a real server.

Real is the server at RETHINKDB_URL, else the ``rethinkdb`` program on PATH, which is started
once for the session on free loopback ports; without either the real half is skipped.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from rethinkdb import r

from tests.contract.eventually import allowed
from tests.contract.raw import RawConnection
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import USED


@dataclass(frozen=True)
class Server:
    """Where a server is, whichever it is."""

    kind: str
    host: str
    port: int
    user: str = "admin"
    password: str = ""


Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    with EmbeddedRethinkDB() as server:
        USED.add("RethinkDB: embedded")
        yield Server("embedded", server.host, server.port)


@pytest.fixture(scope="session")
def real_server() -> Iterator[Server]:
    url = os.environ.get("RETHINKDB_URL")
    if url:
        USED.add("RethinkDB: real, RETHINKDB_URL")
        parts = urlsplit(url)
        yield Server(
            "real",
            parts.hostname or "127.0.0.1",
            parts.port or 28015,
            unquote(parts.username or "admin"),
            unquote(parts.password or ""),
        )
        return
    if find_rethinkdb() is None:
        pytest.skip("no real server: set RETHINKDB_URL or put `rethinkdb` on PATH")
    with RealRethinkDB() as server:
        USED.add("RethinkDB: real, started for the tests")
        yield Server("real", server.host, server.port)


@pytest.fixture(params=["embedded", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    chosen: Server = request.getfixturevalue(f"{request.param}_server")
    return chosen


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Open connections with the Python driver; all are closed after the test."""
    opened: list[Any] = []

    def open_connection(**options: Any) -> Any:
        settings = {"user": server.user, "password": server.password, **options}
        opened.append(r.connect(host=server.host, port=server.port, **settings))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.close(noreply_wait=False)


@pytest.fixture
def conn(connect: Connect) -> Any:
    return connect()


@pytest.fixture
def raw(server: Server) -> Iterator[RawConnection]:
    """Return a connection on which the bytes of responses can be seen."""
    with RawConnection(server.host, server.port, server.user, server.password) as connection:
        yield connection


@pytest.fixture
def db_name(conn: Any) -> Iterator[str]:
    """Make a database of the test's own."""
    name = f"contract_{uuid.uuid4().hex}"
    r.db_create(name).run(conn)
    yield name
    if name in r.db_list().run(conn):
        r.db_drop(name).run(conn)


@pytest.fixture
def table(conn: Any, db_name: str) -> Any:
    """Make a table of the test's own, ready for use."""
    r.db(db_name).table_create("things").run(conn)
    made = r.db(db_name).table("things")
    made.wait().run(conn)
    return made


@pytest.fixture
def user(conn: Any, connect: Connect) -> Iterator[str]:
    """Make a user without any permission; the password is "secret"."""
    name = f"user_{uuid.uuid4().hex}"
    r.db("rethinkdb").table("users").insert({"id": name, "password": "secret"}).run(conn)
    allowed(lambda: connect(user=name, password="secret"))
    yield name
    r.db("rethinkdb").table("users").get(name).delete().run(conn)
