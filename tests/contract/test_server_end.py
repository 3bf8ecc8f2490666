"""What a client sees when its server goes; each test here has a server of its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from rethinkdb import r
from rethinkdb.errors import ReqlDriverError

from tests.support.rethink import RealRethinkDB, driver_socket, find_rethinkdb

AnyServer = EmbeddedRethinkDB | RealRethinkDB


@pytest.fixture(params=["embedded", "real"])
def own_server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    if request.param == "embedded":
        with EmbeddedRethinkDB() as embedded:
            yield embedded
    elif find_rethinkdb() is None:
        pytest.skip("no real server to stop: put `rethinkdb` on PATH")
    else:
        with RealRethinkDB() as real:
            yield real


def _feed(server: AnyServer) -> tuple[Any, Any]:
    connection = r.connect(host=server.host, port=server.port)
    r.table_create("things").run(connection)
    r.table("things").wait().run(connection)
    return connection, r.table("things").changes().run(connection)


def test_a_feed_ends_without_a_reason_when_its_server_stops(own_server: AnyServer) -> None:
    connection, feed = _feed(own_server)
    with driver_socket(connection):
        own_server.stop()
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            feed.next(wait=10)


@pytest.mark.parametrize("own_server", ["real"], indirect=True)
def test_a_crashed_server_comes_back_with_its_tables_but_not_its_feeds(
    own_server: RealRethinkDB,
) -> None:
    connection, feed = _feed(own_server)
    r.table("things").insert({"id": 1}).run(connection)
    assert feed.next(wait=10)["new_val"] == {"id": 1}
    with driver_socket(connection):
        own_server.kill()
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            feed.next(wait=10)
    own_server.start()
    with r.connect(host=own_server.host, port=own_server.port) as again:
        r.table("things").wait().run(again)
        assert r.table("things").get(1).run(again) == {"id": 1}
