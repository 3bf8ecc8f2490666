"""What the tests share: virtual hosts, RethinkDB of both kinds, a table, impatience."""

import gc
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from replicator_sandbox.storage import SERVER_NAME
from rethinkdb import r

from replicator.domain.model import TableName
from tests.support.reading import make_impatient, new_table
from tests.support.servers import RethinkServer


@pytest.fixture(scope="session")
def new_vhost(rabbitmq: PrivateRabbitMQ) -> Callable[[], str]:
    """Gives the URL of another virtual host each time; one command makes many of them."""
    ready: list[str] = []

    def take() -> str:
        if not ready:
            names = [f"v{uuid.uuid4().hex[:12]}" for _ in range(16)]
            rabbitmq.add_vhosts(names)
            ready.extend(names)
        return rabbitmq.url_of(ready.pop())

    return take


@pytest.fixture
def vhost(new_vhost: Callable[[], str]) -> str:
    """The URL of a virtual host of the test's own, at a fraction of the time."""
    return new_vhost()


@pytest.fixture(scope="module")
def embedded() -> Iterator[RethinkServer]:
    with EmbeddedRethinkDB(poll_seconds=0.05) as server:
        yield RethinkServer(server.url)


@pytest.fixture(params=["embedded", "real"])
def server(request: pytest.FixtureRequest) -> RethinkServer:
    if request.param == "embedded":
        embedded: RethinkServer = request.getfixturevalue("embedded")
        return embedded
    best: RethinkServer = request.getfixturevalue("rethinkdb")
    with best.connect() as connection:
        name = connection.server()["name"]
    if name == SERVER_NAME:
        pytest.skip("no real server: set RETHINKDB_URL or put `rethinkdb` on PATH")
    return best


@pytest.fixture
def driver(server: RethinkServer) -> Iterator[Any]:
    connection = server.connect()
    yield connection
    connection.close(noreply_wait=False)


@pytest.fixture
def name(driver: Any) -> Iterator[TableName]:
    made = new_table(driver)
    yield made
    if made.database in r.db_list().run(driver):
        r.db_drop(made.database).run(driver)


@pytest.fixture
def table(name: TableName) -> Any:
    return r.db(name.database).table(name.table)


@pytest.fixture
def user(driver: Any) -> Iterator[str]:
    """A user without any permission; the password is "secret"."""
    users = r.db("rethinkdb").table("users")
    users.insert({"id": "reader", "password": "secret"}, conflict="replace").run(driver)
    yield "reader"
    users.get("reader").delete().run(driver)


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect the sockets that the driver leaks when a server is gone.

    Here the test's own filter knows the warnings; in some other test they would be errors.
    """
    yield
    gc.collect()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, collected: None) -> None:
    """Let readers notice soon what they else give a minute."""
    del collected
    make_impatient(monkeypatch)
