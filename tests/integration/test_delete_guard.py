"""Two servers that are not one cluster: one dies, the other knows none of its documents."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from tests.support.consumer import Consumer
from tests.support.replicator import ReplicatorProcess
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

DOCUMENTS = 1500  # more than the guard lets go by default
TABLE = "shop.orders"


def execute(server: RealRethinkDB, *terms: Any) -> None:
    connection = RethinkServer(server.url).connect()
    for term in terms:
        term.run(connection)
    connection.close(noreply_wait=False)


@pytest.fixture
def servers() -> Iterator[tuple[RealRethinkDB, RealRethinkDB]]:
    """A full one and an empty one, each with the table."""
    if find_rethinkdb() is None:
        pytest.skip("no `rethinkdb` program on PATH")
    with RealRethinkDB() as full, RealRethinkDB() as empty:
        for server in (full, empty):
            execute(server, r.db_create("shop"), r.db("shop").table_create("orders"))
        numbers = r.range(DOCUMENTS).coerce_to("array")
        documents = numbers.map(lambda n: {"id": n})
        execute(full, r.db("shop").table("orders").insert(documents))
        yield full, empty


@pytest.fixture
def service(
    servers: tuple[RealRethinkDB, RealRethinkDB], vhost: str, tmp_path: Path
) -> Iterator[ReplicatorProcess]:
    full, empty = servers
    hosts = f"127.0.0.1:{full.port},127.0.0.1:{empty.port}"
    process = ReplicatorProcess(
        tmp_path,
        {
            "TABLES": TABLE,
            "RETHINKDB__URL": f"rethinkdb://admin@{hosts}",
            "RABBITMQ__URL": vhost,
        },
    )
    yield process
    process.close()


def wait_until_guarded(service: ReplicatorProcess) -> None:
    def is_guarded() -> bool:
        status, facts = service.get("readyz")
        return status == 503 and [each["state"] for each in facts["not_ready"]] == ["guarded"]

    wait_until(is_guarded, 120, f"the guard; log:\n{service.log()}")


def facts_of(service: ReplicatorProcess, *arguments: str) -> Any:
    done = service.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def gap_is_open(service: ReplicatorProcess) -> bool:
    done = service.run("feed", "gaps", "--json")
    return any(json.loads(line)["to"] is None for line in done.stdout.splitlines())


def is_deleted(consumer: Consumer) -> bool:
    return any(message.op == "delete" for message in consumer.history)


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.usefixtures("collected")
def test_an_empty_server_deletes_nothing_until_an_operator_says_so(
    service: ReplicatorProcess, servers: tuple[RealRethinkDB, RealRethinkDB], vhost: str
) -> None:
    full, empty = servers
    with Consumer(vhost) as consumer:
        service.start_and_wait()
        consumer.wait_for_count(DOCUMENTS, 60)
        refused = service.run("feed", "accept-deletes", TABLE, "--yes")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"no deletes of {TABLE} are held back" in refused.stderr

        # The full one dies: the empty one is asked.
        full.kill()
        wait_until_guarded(service)
        assert service.metric("replicator_feed_guarded_deletes", table=TABLE) == DOCUMENTS
        assert service.metric("replicator_feed_state", table=TABLE, state="guarded") == 1
        (trouble,) = [t for t in service.status()["troubles"] if t["part"] == "feed"]
        assert (trouble["level"], trouble["detail"]) == (
            "error",
            "1,500 documents; the index had 1,500",
        )
        assert gap_is_open(service)
        execute(empty, r.db("shop").table("orders").insert({"id": "live"}))
        execute(empty, r.db("shop").table("orders").get("live").delete())
        consumer.wait_for_count(DOCUMENTS + 2)
        assert [m.op for m in consumer.history[DOCUMENTS:]] == ["create", "delete"]

        # A restart compares again, and finds the same.
        service.kill()
        service.start()
        wait_until_guarded(service)

        # Back at the full one, it ends by itself.
        full.start()
        empty.kill()
        service.wait_until_ready(120)
        assert service.metric("replicator_feed_guarded_deletes", table=TABLE) == 0
        assert not gap_is_open(service)
        # Not by their number: the killed process may have sent some twice.
        assert not [m for m in consumer.history if m.origin == "resync"]

        # And if the empty one is the right one after all, an operator says so.
        empty.start()
        full.kill()
        wait_until_guarded(service)
        shown = facts_of(service, "feed", "accept-deletes", TABLE, "--dry-run")
        assert (shown["deletes"], len(shown["keys"]), shown["dry_run"]) == (DOCUMENTS, 10, True)
        assert service.get("readyz")[0] == 503
        facts_of(service, "feed", "accept-deletes", TABLE, "--yes")
        service.wait_until_ready()
        consumer.wait_for(lambda it: not it.documents("orders"), 60)
        resync = [m.op for m in consumer.history if m.origin == "resync"]
        assert resync == ["delete"] * DOCUMENTS
        assert not gap_is_open(service)
        (order,) = [
            json.loads(line)
            for line in service.run("outbox", "history", "--json").stdout.splitlines()
        ]
        assert (order["action"], order["table"], order["deletes"]) == (
            "accept-deletes",
            TABLE,
            DOCUMENTS,
        )
    assert service.terminate() == 0
    assert "Traceback" not in service.log()


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.usefixtures("collected")
def test_what_is_accepted_while_nothing_runs_goes_at_the_next_start(
    service: ReplicatorProcess, servers: tuple[RealRethinkDB, RealRethinkDB], vhost: str
) -> None:
    full, _ = servers
    with Consumer(vhost) as consumer:
        service.start_and_wait()
        consumer.wait_for_count(DOCUMENTS, 60)
        full.kill()
        wait_until_guarded(service)
        assert service.terminate() == 0
        (feed,) = [
            json.loads(line) for line in service.run("feed", "list", "--json").stdout.splitlines()
        ]
        assert feed["guarded"]["deletes"] == DOCUMENTS
        accepted = service.run("feed", "accept-deletes", TABLE, "--yes")
        assert accepted.returncode == 0, accepted.stderr
        assert "publishes up to 1,500 deletes" in accepted.stdout
        assert not is_deleted(consumer)
        service.start_and_wait(120)
        consumer.wait_for_count(2 * DOCUMENTS, 60)
        assert consumer.documents("orders") == {}
