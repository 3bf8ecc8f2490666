"""The whole service when a disk, a limit, a server or a table fails under it."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.support.consumer import Consumer
from tests.support.promises import assert_order_is_kept, wait_for_equality
from tests.support.proxy import TcpProxy
from tests.support.reading import new_table
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until
from tests.support.writer import Writer, truth


def not_ready(replicator: ReplicatorProcess) -> dict[str, dict[str, Any]]:
    """Return the parts that are not ready, by their names."""
    status, facts = replicator.get("readyz")
    assert status in (200, 503), replicator.log()
    return {part["part"]: part for part in facts.get("not_ready", [])}


def gaps(replicator: ReplicatorProcess) -> list[dict[str, Any]]:
    done = replicator.run("feed", "gaps", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def proxy(rabbitmq: PrivateRabbitMQ) -> Iterator[TcpProxy]:
    with TcpProxy(rabbitmq.port) as between:
        yield between


@pytest.fixture
def through(
    replicator: ReplicatorProcess, rabbitmq: PrivateRabbitMQ, proxy: TcpProxy, vhost: str
) -> ReplicatorProcess:
    """The replicator, with a proxy between it and the broker."""
    url = vhost.replace(f":{rabbitmq.port}/", f":{proxy.port}/")
    replicator.settings["RABBITMQ__URL"] = url
    return replicator


def let_files_grow(replicator: ReplicatorProcess, max_bytes: int) -> None:
    """Limit the size of every file that the process writes: beyond it, a disk is full."""
    limits = (max_bytes, resource.RLIM_INFINITY)
    resource.prlimit(replicator.pid, resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_shown_and_loses_nothing(
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    with Consumer(vhost) as consumer, Writer(rethinkdb, database, seed=11) as writer:
        replicator.start_and_wait()
        let_files_grow(replicator, 64 * 1024)
        part = wait_until(lambda: not_ready(replicator).get("outbox"), 30, "the outbox to fail")
        assert part["error"]
        assert part["since"]
        assert replicator.get("livez")[0] == 200
        enough = writer.writes + 200
        wait_until(lambda: writer.writes >= enough, 30)
        let_files_grow(replicator, resource.RLIM_INFINITY)
        replicator.wait_until_ready()
        writer.stop()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)
    assert replicator.metric("replicator_gaps_total") == 0
    assert replicator.terminate() == 0
    assert "Traceback" not in replicator.log()
    assert replicator.log().count("outbox cannot be written") == 1


def test_a_process_that_ends_while_its_disk_is_full_loses_nothing(
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    with Consumer(vhost) as consumer, Writer(rethinkdb, database, seed=12) as writer:
        replicator.start_and_wait()
        let_files_grow(replicator, 64 * 1024)
        wait_until(lambda: not_ready(replicator).get("outbox"), 30, "the outbox to fail")
        status = replicator.terminate(60)
        assert "Traceback" not in replicator.log()
        assert status in (0, 1)
        replicator.start_and_wait()
        writer.stop()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)


def test_at_the_limit_of_the_outbox_the_feed_pauses_until_there_is_room(
    through: ReplicatorProcess,
    proxy: TcpProxy,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    through.settings["OUTBOX__MAX_ENTRIES"] = "200"
    with Consumer(vhost) as consumer:
        through.start_and_wait()
        with Writer(rethinkdb, database, seed=13) as writer:
            proxy.refuse()
            proxy.cut()
            part = wait_until(
                lambda: (
                    (found := not_ready(through).get("feed"))
                    and found["state"] == "paused"
                    and found
                ),
                30,
                "the feed to pause",
            )
            assert part["table"] == f"{database}.mytable"
            assert through.metric("replicator_feed_state", state="paused") == 1
            enough = writer.writes + 500
            wait_until(lambda: writer.writes >= enough, 30)
            assert 200 <= through.status()["outbox"]["pending"] < 500
            assert through.status()["outbox"]["full"]
            assert through.get("livez")[0] == 200
            proxy.heal()
            through.wait_until_ready()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)
    assert gaps(through) == []


@pytest.fixture
def overflowing() -> Iterator[EmbeddedRethinkDB]:
    with EmbeddedRethinkDB() as server:
        yield server


def test_what_rethinkdb_dropped_while_the_outbox_was_full_is_repaired_and_recorded(
    through: ReplicatorProcess, proxy: TcpProxy, overflowing: EmbeddedRethinkDB, vhost: str
) -> None:
    with RethinkServer(overflowing.url).connect() as driver, Consumer(vhost) as consumer:
        name = new_table(driver)
        table = r.db(name.database).table(name.table)
        table.insert([{"id": n} for n in range(100)]).run(driver)
        through.settings |= {
            "OUTBOX__MAX_ENTRIES": "200",
            "RETHINKDB__URL": overflowing.url,
            "TABLES": str(name),
        }
        through.start_and_wait()
        consumer.wait_for_count(100)
        proxy.refuse()
        proxy.cut()
        table.insert([{"id": n} for n in range(100, 400)]).run(driver)
        wait_until(
            lambda: through.metric("replicator_feed_state", state="paused") == 1, 30, "a pause"
        )
        assert overflowing.overflow_feeds(str(name)) == 1
        table.get_all(*range(50)).delete().run(driver)
        table.get_all(*range(50, 60)).update({"n": 1}).run(driver)
        proxy.heal()
        through.wait_until_ready()
        wait_for_equality(consumer, driver, name.database)
    (gap,) = gaps(through)
    assert gap["cause"] == "overflow"
    assert gap["table"] == str(name)
    assert (gap["updated"], gap["deleted"]) == (10, 50)
    assert through.metric("replicator_gaps_total", cause="overflow") == 1
    assert through.metric("replicator_changes_skipped_total") == 1
    assert_order_is_kept(consumer)


@pytest.fixture
def mortal() -> Iterator[RealRethinkDB]:
    if find_rethinkdb() is None:
        pytest.skip("no `rethinkdb` program on PATH")
    with RealRethinkDB() as server:
        yield server


# The driver forgets the writer's socket without closing it when the server has gone first.
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.usefixtures("collected")
def test_the_copy_equals_the_table_after_rethinkdb_was_killed_under_a_writer(
    mortal: RealRethinkDB, vhost: str, tmp_path: Path
) -> None:
    server = RethinkServer(mortal.url)
    driver = server.connect()
    name = new_table(driver)
    settings = {"TABLES": str(name), "RETHINKDB__URL": mortal.url, "RABBITMQ__URL": vhost}
    replicator = ReplicatorProcess(tmp_path, settings)
    try:
        with Consumer(vhost) as consumer:
            replicator.start_and_wait()
            first = Writer(server, name.database, seed=14)
            first._thread.start()
            wait_until(lambda: first.writes > 300, 30)
            mortal.kill()
            driver.close(noreply_wait=False)
            with pytest.raises(AssertionError, match="the writer failed"):
                first.stop()
            part = wait_until(lambda: not_ready(replicator).get("feed"), 30, "the loss")
            assert part["state"] == "lost"
            mortal.start()
            driver = server.connect()
            r.db(name.database).table(name.table).wait().run(driver)
            with Writer(server, name.database, seed=15) as writer:
                replicator.wait_until_ready()
                wait_until(lambda: writer.writes > 100, 30)
            wait_for_equality(consumer, driver, name.database)
        assert_order_is_kept(consumer)
        assert [gap["cause"] for gap in gaps(replicator)] == ["disconnect"]
        assert replicator.metric("replicator_reconnects_total", peer="rethinkdb") == 1
        assert truth(driver, name.database)
        assert "Traceback" not in replicator.log()
    finally:
        driver.close(noreply_wait=False)
        replicator.close()


def test_a_table_that_was_dropped_and_created_again_replaces_its_copy(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str
) -> None:
    table = r.db(database).table("mytable")
    table.insert([{"id": n, "old": True} for n in range(30)]).run(connection)
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        consumer.wait_for_count(30)
        r.db(database).table_drop("mytable").run(connection)
        wait_until(lambda: not_ready(replicator).get("feed"), 20, "the loss")
        r.db(database).table_create("mytable").run(connection)
        table.wait().run(connection)
        table.insert([{"id": n, "old": False} for n in range(20, 40)]).run(connection)
        replicator.wait_until_ready()
        wait_for_equality(consumer, connection, database)
        history = consumer.history[30:]
    ops = {message.op: set() for message in history}
    for message in history:
        ops[message.op].add((message.new_val or message.old_val)["id"])
    # What is in both tables may be one update, or a delete and a create.
    assert ops["delete"] >= set(range(20))
    assert set(range(30, 40)) <= ops["create"]
    assert {gap["cause"] for gap in gaps(replicator)} == {"aborted"}
    assert_order_is_kept(consumer)
