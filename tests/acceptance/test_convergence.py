"""The main promises on the real thing: a real process, real servers, real kills."""

import json
import random
import signal
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.support.consumer import Consumer
from tests.support.promises import assert_order_is_kept, wait_for_equality
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until
from tests.support.writer import Writer, truth


@pytest.mark.parametrize("seed", [1, 2])
def test_the_copy_equals_the_table_after_kills_at_random_moments(
    seed: int,
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    moments = random.Random(seed)
    with Consumer(vhost) as consumer, Writer(rethinkdb, database, seed=seed) as writer:
        for _ in range(6):
            replicator.start()
            enough = writer.writes + moments.randrange(20, 600)
            wait_until(lambda enough=enough: writer.writes >= enough, 30)
            replicator.kill()
        replicator.start_and_wait()
        writer.stop()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)


def test_deletes_made_while_nobody_listened_are_published(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str
) -> None:
    table = r.db(database).table("mytable")
    table.insert([{"id": n} for n in range(50)]).run(connection)
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        consumer.wait_for_count(50)
        replicator.kill()
        table.get_all(*range(20)).delete().run(connection)
        replicator.start_and_wait()
        wait_for_equality(consumer, connection, database)
        deletes = [message for message in consumer.history if message.op == "delete"]
    assert sorted(message.old_val["id"] for message in deletes) == list(range(20))
    assert {message.origin for message in deletes} == {"resync"}
    gap = json.loads(replicator.run("feed", "gaps", "--json").stdout)
    assert (gap["cause"], gap["deleted"], gap["updated"]) == ("start", 20, 0)


def test_a_restart_over_an_unchanged_table_publishes_nothing(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str
) -> None:
    r.db(database).table("mytable").insert([{"id": n} for n in range(500)]).run(connection)
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        consumer.wait_for_count(500)
        assert replicator.terminate() == 0
        replicator.start_and_wait()
        assert replicator.metric("replicator_snapshot_documents_total") == 500
        assert replicator.metric("replicator_changes_captured_total") == 0
        r.db(database).table("mytable").insert({"id": "last"}).run(connection)
        assert len(consumer.wait_for_count(501)) == 501


def test_the_copy_equals_the_table_after_the_broker_was_killed(
    replicator: ReplicatorProcess,
    rabbitmq: PrivateRabbitMQ,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    with Consumer(vhost) as consumer, Writer(rethinkdb, database, seed=3) as writer:
        replicator.start_and_wait()
        consumer.wait_for_count(50)
        rabbitmq.kill()
        enough = writer.writes + 300
        wait_until(lambda: writer.writes >= enough, 30)
        status, facts = replicator.get("readyz")
        assert (status, facts["degraded"]) == (503, "buffering")
        rabbitmq.start()
        replicator.wait_until_ready()
        writer.stop()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)
    assert replicator.metric("replicator_reconnects_total", peer="rabbitmq") == 1
    assert replicator.metric("replicator_gaps_total") == 0


def test_sigterm_confirms_what_was_captured_and_exits_0(
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    with Consumer(vhost) as consumer:
        with Writer(rethinkdb, database, seed=4) as writer:
            replicator.start_and_wait()
            wait_until(lambda: writer.writes > 300, 30)
            assert replicator.terminate() == 0
        stats = replicator.run("outbox", "list", "--json")
        assert (stats.returncode, stats.stdout) == (0, "")
        replicator.start_and_wait()
        wait_for_equality(consumer, connection, database)
    entries = [message.entry for message in consumer.history]
    assert len(entries) == len(set(entries)), "a message came twice after an orderly stop"
    assert "Traceback" not in replicator.log()


def test_a_stopped_and_continued_process_goes_on_and_loses_nothing(
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    vhost: str,
    connection: Any,
    database: str,
) -> None:
    with Consumer(vhost) as consumer, Writer(rethinkdb, database, seed=5) as writer:
        replicator.start_and_wait()
        replicator.send(signal.SIGSTOP)
        enough = writer.writes + 500
        wait_until(lambda: writer.writes >= enough, 30)
        replicator.send(signal.SIGCONT)
        writer.stop()
        wait_for_equality(consumer, connection, database)
    assert_order_is_kept(consumer)
    assert truth(connection, database)
