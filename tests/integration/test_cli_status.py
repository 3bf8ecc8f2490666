"""The commands while the service runs, and after it was killed."""

import json
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.support.ports import free_port
from tests.support.proxy import TcpProxy
from tests.support.replicator import ReplicatorProcess
from tests.support.wait import wait_until


def test_status_has_the_live_figures_while_the_service_runs(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()

    done = replicator.run("status", "--json")

    facts, live = json.loads(done.stdout), replicator.status()
    assert (facts["running"], facts["ready"], facts["broker"]["connected"]) == (True, True, True)
    assert facts.keys() == live.keys()
    assert facts["feeds"] == live["feeds"]
    assert "running, ready" in replicator.run("status").stdout


def test_people_are_told_what_is_wrong_and_what_to_do(
    replicator: ReplicatorProcess, rabbitmq: PrivateRabbitMQ, vhost: str
) -> None:
    # Given a service that loses its broker
    with TcpProxy(rabbitmq.port) as between:
        replicator.settings["RABBITMQ__URL"] = vhost.replace(
            f":{rabbitmq.port}", f":{between.port}"
        )
        replicator.start_and_wait()
        assert told(replicator) == []
        between.refuse()
        between.cut()
        wait_until(lambda: not replicator.status()["broker"]["connected"], 30, "no broker")

        # Then each trouble of /status is a line with its hint, once by itself and without it
        assert_all_are_told(replicator, "RabbitMQ is not connected.")
    replicator.kill()
    assert_all_are_told(replicator, "The service does not run.")


def told(replicator: ReplicatorProcess) -> list[str]:
    """Return the lines of troubles."""
    lines = replicator.run("status").stdout.splitlines()
    return [line for line in lines if line.startswith(("error", "warning"))]


def assert_all_are_told(replicator: ReplicatorProcess, expected: str) -> None:
    troubles = json.loads(replicator.run("status", "--json").stdout)["troubles"]
    assert expected in [each["text"] for each in troubles]
    lines = told(replicator)
    for trouble in troubles:
        (line,) = [line for line in lines if trouble["text"] in line]
        assert line.startswith(trouble["level"])
        assert line.endswith(trouble["hint"])


def test_status_after_a_kill_has_the_same_form(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()
    live = replicator.status()
    replicator.kill()

    facts = json.loads(replicator.run("status", "--json").stdout)

    assert (facts["running"], facts["ready"], facts["broker"]) == (False, False, None)
    assert facts.keys() == live.keys() | {"not_ready"}
    assert facts["outbox"].keys() == live["outbox"].keys()
    assert facts["outbox"]["id"] == live["outbox"]["id"]
    assert [feed.keys() for feed in facts["feeds"]] == [feed.keys() for feed in live["feeds"]]


def test_another_service_at_the_address_is_not_taken_for_this_one(
    replicator: ReplicatorProcess, tmp_path: Any
) -> None:
    replicator.start_and_wait()
    other = tmp_path / "other.db"
    other.touch()
    url = f"sqlite:///{other}"
    assert replicator.run("migrate", "--outbox", url).returncode == 0

    facts = json.loads(replicator.run("status", "--json", "--outbox", url).stdout)

    assert (facts["running"], facts["outbox"]["id"]) == (False, None)


@pytest.mark.parametrize("is_running", [True, False])
def test_entries_that_wait_for_the_broker_can_be_looked_at(
    is_running: bool,  # noqa: FBT001 -- pytest passes it so
    replicator: ReplicatorProcess,
    connection: Any,
    database: str,
) -> None:
    replicator.settings["RABBITMQ__URL"] = f"amqp://127.0.0.1:{free_port()}"
    replicator.start()
    wait_until(lambda: replicator.get("livez")[0] == 200, 30)
    r.db(database).table("mytable").insert([{"id": n} for n in range(3)]).run(connection)
    wait_until(lambda: replicator.status()["outbox"]["pending"] == 3, 30)
    if not is_running:
        replicator.kill()

    listed = replicator.run("outbox", "list", "--json").stdout.splitlines()
    shown = replicator.run("outbox", "show", "1", "--json")
    stats = json.loads(replicator.run("outbox", "stats", "--json").stdout)

    assert [json.loads(line)["id"] for line in listed] == [1, 2, 3]
    assert json.loads(shown.stdout)["body"]["old_val"] is None
    assert (stats["entries"], stats["state"]) == (3, "pending")
    assert json.loads(replicator.run("status", "--json").stdout)["running"] is is_running


def test_a_second_service_on_the_outbox_is_refused(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()

    done = replicator.run("run", "--http", "off")

    assert done.returncode == 2
    assert f"in use by another replicator (process {replicator.pid})" in done.stderr
