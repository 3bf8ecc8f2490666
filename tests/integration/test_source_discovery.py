"""The list of tables of a server, the embedded and a real one: its feed, its rights, its loss."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rethinkdb import r

from replicator import retry
from replicator.domain.model import TableName
from replicator.errors import FeedDisconnected, SourceRefused
from replicator.metrics import Metrics
from replicator.retry import Backoff
from replicator.source import discovery as discovery_module
from replicator.source.connection import Server
from replicator.source.discovery import Discovery, open_table_config
from replicator.source.watchdog import Watchdog
from tests.support.proxy import TcpProxy
from tests.support.reading import server_of
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until


@contextmanager
def running(server: Server, name: TableName) -> Iterator[tuple[Discovery, list[set[str]]]]:
    """Run a discovery of a table's database; what it told comes as names of tables."""
    told: list[set[str]] = []
    watchdog = Watchdog()

    def take(found: Collection[TableName], _away: Collection[TableName]) -> None:
        told.append({each.table for each in found})

    watch = watchdog.watch()
    discovery = Discovery(
        [name.database], lambda: open_table_config(server, watch), take, Metrics()
    )
    threads = [threading.Thread(target=run) for run in (discovery.run, watchdog.run)]
    for thread in threads:
        thread.start()
    try:
        yield discovery, told
    finally:
        discovery.stop()
        threads[0].join(10)
        watchdog.stop()
        threads[1].join(10)
        assert not threads[0].is_alive()


@pytest.mark.usefixtures("impatient")
def test_tables_that_come_and_go_are_told(
    server: RethinkServer, driver: Any, name: TableName
) -> None:
    with running(server_of(server), name) as (_, told):
        wait_until(lambda: bool(told), 20, "the first list")
        assert told[0] == {"mytable"}
        r.db(name.database).table_create("later").run(driver)
        wait_until(lambda: told[-1] == {"mytable", "later"}, 20, "the new table")
        r.db(name.database).table_drop("mytable").run(driver)
        wait_until(lambda: told[-1] == {"later"}, 20, "the drop")


@pytest.mark.usefixtures("impatient")
def test_read_on_table_config_is_all_it_takes(
    server: RethinkServer, driver: Any, name: TableName, user: str
) -> None:
    mine = server_of(server, user=user, password="secret")
    watch = Watchdog().watch()
    with (
        pytest.raises(SourceRefused, match=r"no permission to read rethinkdb\.table_config"),
        open_table_config(mine, watch),
    ):
        pass
    r.db("rethinkdb").table("table_config").grant(user, {"read": True}).run(driver)
    try:
        with open_table_config(mine, watch) as tables:
            assert name in tables.names()
    finally:
        r.db("rethinkdb").table("table_config").grant(user, {"read": None}).run(driver)


@pytest.mark.usefixtures("impatient")
def test_a_lost_link_is_opened_again(
    server: RethinkServer, driver: Any, name: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.05, 0.2))
    with TcpProxy(server.port, server.host) as proxy:
        through = server_of(server)._replace(hosts=[("127.0.0.1", proxy.port)])
        with running(through, name) as (discovery, told):
            wait_until(lambda: discovery.status.is_current, 20, "the first list")
            before = len(told)
            proxy.cut()
            r.db(name.database).table_create("later").run(driver)
            wait_until(lambda: told[before:] and told[-1] == {"mytable", "later"}, 20, "the list")


@pytest.mark.usefixtures("impatient")
def test_a_link_that_went_silent_is_given_up(
    server: RethinkServer, name: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_module, "_ANSWER_SECONDS", 1.0)
    watchdog = Watchdog()
    watching = threading.Thread(target=watchdog.run)
    watching.start()
    try:
        with TcpProxy(server.port, server.host) as proxy:
            through = server_of(server)._replace(hosts=[("127.0.0.1", proxy.port)])
            with open_table_config(through, watchdog.watch()) as tables:
                assert name in tables.names()
                proxy.go_deaf()
                with pytest.raises(FeedDisconnected):
                    tables.names()
    finally:
        watchdog.stop()
        watching.join(10)
