"""Several hosts in ``rethinkdb.url``, and a proxy: what `check` says of each.

The servers are real ones, which tests may mix up and end.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rethinkdb import r

from replicator.domain.model import TableName
from tests.support.command import Command, Done, command_line
from tests.support.ports import free_port
from tests.support.reading import RunningReader, server_of
from tests.support.rethink import RealRethinkDB, RethinkDBProxy, find_rethinkdb
from tests.support.servers import RethinkServer

TABLE = TableName("shop", "orders")

pytestmark = pytest.mark.skipif(find_rethinkdb() is None, reason="put `rethinkdb` on PATH")


def make_table(server: RealRethinkDB) -> None:
    with RethinkServer(server.url).connect() as driver:
        r.db_create(TABLE.database).run(driver)
        r.db(TABLE.database).table_create(TABLE.table).run(driver)
        r.db(TABLE.database).table(TABLE.table).wait().run(driver)


@pytest.fixture(scope="module")
def first() -> Iterator[RealRethinkDB]:
    with RealRethinkDB() as server:
        make_table(server)
        yield server


@pytest.fixture(scope="module")
def stranger() -> Iterator[RealRethinkDB]:
    """A server of a cluster of its own."""
    with RealRethinkDB() as server:
        yield server


@pytest.fixture
def proxy(first: RealRethinkDB) -> Iterator[RethinkDBProxy]:
    with RethinkDBProxy(first) as made:
        yield made


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", f"amqp://127.0.0.1:{free_port()}")
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    with command_line(monkeypatch, capsys) as run:
        yield run


def check(cli: Command, *ports: int, table: str = str(TABLE)) -> dict[str, tuple[bool, str]]:
    """Return what is said of RethinkDB and its tables: whether it is well, and the words."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    done: Done = cli("check", "--json", "--table", table, "--rethinkdb", f"rethinkdb://{hosts}")
    return {
        re.sub(r":\d+$", lambda port: f" {ports.index(int(port[0][1:]))}", line["part"]): (
            line["ok"],
            f"{line['message']} — {line['hint']}",
        )
        for line in done.objects
        if line["part"].startswith(("rethinkdb", "table"))
    }


def test_a_proxy_is_a_host_as_any_other(cli: Command, proxy: RethinkDBProxy) -> None:
    said = check(cli, proxy.port)

    assert said["rethinkdb"][1].startswith("a proxy answers user 'admin'")
    assert all(is_well for is_well, _ in said.values())
    with RunningReader(server_of(RethinkServer(proxy.url)), TABLE) as reader:
        reader.wait_until_ready()
        assert reader.reader.is_connected


def test_each_host_has_a_line_and_the_tables_are_looked_at_once(
    cli: Command, first: RealRethinkDB, proxy: RethinkDBProxy
) -> None:
    nobody = free_port()
    said = check(cli, nobody, first.port, proxy.port)

    assert list(said) == [
        "rethinkdb 127.0.0.1 0",
        "rethinkdb 127.0.0.1 1",
        "table shop.orders",
        "rethinkdb 127.0.0.1 2",
    ]
    assert [is_well for is_well, _ in said.values()] == [False, True, True, True]
    assert "cannot be reached" in said["rethinkdb 127.0.0.1 0"][1]
    assert re.match(r"server '.+' answers user 'admin' at", said["rethinkdb 127.0.0.1 1"][1])


def test_a_host_of_another_cluster_is_wrong_whether_or_not_it_has_a_table_of_that_name(
    cli: Command, first: RealRethinkDB, stranger: RealRethinkDB
) -> None:
    for table in (str(TABLE), f"{TABLE.database}.*"):
        said = check(cli, first.port, stranger.port, table=table)
        is_well, words = said["rethinkdb 127.0.0.1 1"]
        assert not is_well
        assert words.startswith("shop.orders is another table here than at the hosts before")
        assert "hosts of one cluster only" in words
    make_table(stranger)
    assert not check(cli, first.port, stranger.port)["rethinkdb 127.0.0.1 1"][0]
    assert check(cli, first.port, first.port)["rethinkdb 127.0.0.1 0"][0]


def test_a_whole_database_that_does_not_exist_is_told(cli: Command, first: RealRethinkDB) -> None:
    is_well, words = check(cli, first.port, table="shpo.*")["tables shpo.*"]

    assert not is_well
    assert words.startswith("there is no database shpo")
    assert "`replicator run` waits for it" in words


def test_the_system_database_has_no_tables_to_follow(cli: Command) -> None:
    done = cli("check", "--json", "--table", "rethinkdb.*")

    assert done.status == 2
    assert "rethinkdb.*" in done.out
    assert "RethinkDB's own database" in done.out
