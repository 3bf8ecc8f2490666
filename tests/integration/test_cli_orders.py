"""What operators do while the service runs: it follows within seconds, without a restart."""

import contextlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from tests.support.consumer import Consumer
from tests.support.replicator import ReplicatorProcess
from tests.support.wait import wait_until


def done(replicator: ReplicatorProcess, *arguments: str) -> list[Any]:
    """Run a command that must succeed; what it printed, an object a line."""
    ended = replicator.run(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def entries(replicator: ReplicatorProcess) -> dict[int, str]:
    return {entry["id"]: entry["state"] for entry in done(replicator, "outbox", "list")}


@pytest.fixture
def table(database: str) -> Any:
    return r.db(database).table("mytable")


def test_redriven_entries_are_delivered_without_a_restart(
    replicator: ReplicatorProcess, vhost: str, connection: Any, table: Any
) -> None:
    # Given entries that were parked because no queue was there
    replicator.settings["RABBITMQ__ON_UNROUTABLE"] = "park"
    replicator.start_and_wait()
    table.insert([{"id": n} for n in range(3)]).run(connection)
    wait_until(lambda: replicator.status()["outbox"]["parked"] == 3, 30, "parked")
    pid = replicator.pid

    with Consumer(vhost) as consumer:
        # When one of their documents has a newer state, which is delivered
        table.get(0).update({"v": 1}).run(connection)
        consumer.wait_for_count(1)
        wait_until(lambda: replicator.status()["outbox"]["pending"] == 0, 20, "settled")
        numbers = {e["key"]: e["id"] for e in done(replicator, "outbox", "list")}
        (first,) = done(replicator, "outbox", "redrive", str(numbers[1]))
        consumer.wait_for_count(2)
        rest = done(replicator, "outbox", "redrive", "--all")

        # Then all of them come, and the old state of that document is told
        consumer.wait_for_count(4)
        assert (first["superseded"], first["state"]) == (False, "pending")
        assert {e["key"]: e["superseded"] for e in rest} == {0: True, 2: False}
        assert consumer.documents("mytable") == {
            "0": {"id": 0, "v": 1},
            "1": {"id": 1},
            "2": {"id": 2},
        }
        assert consumer.of_document("mytable", 0)[-1].entry == numbers[0]
    wait_until(lambda: entries(replicator) == {}, 20, "settled")
    totals = replicator.status()["outbox"]
    assert (totals["pending"], totals["parked"], totals["bytes"]) == (0, 0, 0)
    assert replicator.pid == pid
    by = {each["action"] for each in done(replicator, "outbox", "history")}
    assert by == {"redrive"}


def test_entries_are_parked_and_discarded_while_the_service_holds_them(
    replicator: ReplicatorProcess, vhost: str, connection: Any, table: Any
) -> None:
    # Given entries that wait in the publisher's memory for a queue
    replicator.settings["RABBITMQ__ON_UNROUTABLE"] = "hold"
    replicator.start_and_wait()
    table.insert([{"id": n} for n in range(6)]).run(connection)
    wait_until(lambda: replicator.status()["broker"]["refused"] == 6, 30, "refused")
    numbers = sorted(entries(replicator))

    # When an operator takes some of them away
    parked = replicator.run("outbox", "park", *map(str, numbers[:2]))
    discarded = replicator.run("outbox", "discard", "--yes", *map(str, numbers[2:4]))
    assert (parked.returncode, discarded.returncode) == (0, 0)
    assert "may still be delivered" in parked.stderr
    assert "may still be delivered" in discarded.stderr
    wait_until(lambda: replicator.status()["broker"]["refused"] == 2, 20, "withdrawn")

    # Then only the others are delivered when there is a queue, and nothing that was kept is lost
    with Consumer(vhost) as consumer:
        consumer.wait_for_count(2)
        wait_until(lambda: set(entries(replicator).values()) == {"parked"}, 20, "settled")
        assert sorted(message.entry for message in consumer.history) == numbers[4:]
        assert sorted(entries(replicator)) == numbers[:2]
        done(replicator, "outbox", "redrive", "--all")
        consumer.wait_for_count(4)
        assert {message.entry for message in consumer.history} == {*numbers[:2], *numbers[4:]}
    wait_until(lambda: replicator.status()["outbox"]["bytes"] == 0, 20, "settled")
    assert replicator.metric("replicator_entries_parked_total", reason="operator") == 2


def test_a_resync_that_was_asked_for_publishes_the_differences(
    replicator: ReplicatorProcess, vhost: str, connection: Any, table: Any, database: str
) -> None:
    name = f"{database}.mytable"
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        table.insert([{"id": 1}, {"id": 2}]).run(connection)
        consumer.wait_for_count(2)
        wait_until(lambda: replicator.status()["outbox"]["pending"] == 0, 20, "settled")
        assert replicator.run("feed", "resync", f"{database}.typo").returncode == 2

        assert "within seconds" in replicator.run("feed", "resync", name).stdout

        wait_until(
            lambda: (
                replicator.metric("replicator_resyncs_total", table=name, cause="requested") == 1
            ),
            20,
            "the resync",
        )
        replicator.wait_until_ready()
        gaps = done(replicator, "feed", "gaps")
        assert [(gap["table"], gap["cause"]) for gap in gaps] == [(name, "requested")]
        assert gaps[0]["to"] is not None
        assert replicator.metric("replicator_gaps_total", cause="requested") == 1
        table.get(1).delete().run(connection)
        consumer.wait_for_count(3)
        assert [message.op for message in consumer.history] == ["create", "create", "delete"]
        (last,) = done(replicator, "outbox", "history")
        assert (last["action"], last["table"]) == ("resync", name)


def test_a_resync_finds_what_the_index_does_not_have(
    replicator: ReplicatorProcess, vhost: str, connection: Any, table: Any, database: str
) -> None:
    """A feed misses nothing here, so the difference is made in the index."""
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        table.insert([{"id": 1}, {"id": 2}]).run(connection)
        consumer.wait_for_count(2)
        wait_until(lambda: replicator.status()["outbox"]["pending"] == 0, 20, "settled")
        make_stale(replicator.outbox)

        assert replicator.run("feed", "resync", f"{database}.mytable").returncode == 0

        consumer.wait_for_count(3)
        found = consumer.history[-1]
        assert (found.op, found.origin, found.new_val["id"]) == ("update", "resync", 1)
        (gap,) = done(replicator, "feed", "gaps")
        assert (gap["cause"], gap["updated"], gap["deleted"]) == ("requested", 1, 0)


def make_stale(path: Path) -> None:
    """Let the index have another state of the first document."""
    connection = sqlite3.connect(path, timeout=30)
    with connection:
        connection.execute("UPDATE documents SET digest = x'00' WHERE key = '1'")
    connection.close()


def test_an_export_is_taken_while_the_service_runs(
    replicator: ReplicatorProcess, connection: Any, table: Any
) -> None:
    replicator.settings["RABBITMQ__ON_UNROUTABLE"] = "park"
    replicator.start_and_wait()
    table.insert([{"id": n} for n in range(50)]).run(connection)
    wait_until(lambda: replicator.status()["outbox"]["parked"] == 50, 30, "parked")

    exported = replicator.run("outbox", "export", "--state", "parked")

    assert exported.returncode == 0, exported.stderr
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert {line["routing_key"] for line in lines} == {"mytable.create"}
    assert sorted(json.loads(line["body"])["new_val"]["id"] for line in lines) == [*range(50)]


def test_watching_goes_on_while_the_service_comes_and_goes(
    replicator: ReplicatorProcess, vhost: str, connection: Any, table: Any, database: str
) -> None:
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        command = [sys.executable, "-m", "replicator", "status", "--watch", "--json"]
        with subprocess.Popen(
            command, env=replicator.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as watching:
            try:
                seen = Watched(watching)
                seen.wait_for(lambda facts: facts["ready"] and facts["rates"] is not None)
                table.insert([{"id": n} for n in range(200)]).run(connection)
                consumer.wait_for_count(200)
                name = f"{database}.mytable"
                seen.wait_for(lambda facts: facts["rates"]["captured_per_second"][name] > 0)
                seen.wait_for(lambda facts: (facts["rates"]["confirmed_per_second"] or 0) > 0)
                assert replicator.terminate() == 0
                gone = seen.wait_for(lambda facts: not facts["running"])
                assert (gone["broker"], gone["rates"]) == (None, None)
                replicator.start_and_wait()
                seen.wait_for(lambda facts: facts["ready"])

                watching.send_signal(signal.SIGINT)
                assert watching.wait(20) == 0
                assert watching.stderr is not None
                assert watching.stderr.read() == b""
            finally:
                watching.kill()


class Watched:
    """The objects that a watching command prints."""

    def __init__(self, watching: "subprocess.Popen[bytes]") -> None:
        assert watching.stdout is not None
        self._lines = watching.stdout

    def wait_for(self, condition: Callable[[Any], bool], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            line = self._lines.readline()
            assert line, "it ended"
            facts = json.loads(line)
            if condition(facts):
                return facts
        raise AssertionError("it was not shown in time")


def test_a_terminal_shows_one_picture_that_changes(replicator: ReplicatorProcess) -> None:
    replicator.start_and_wait()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "replicator", "status", "--watch", "--count", "2"]
    environment = replicator.environment | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs) as watching:
        os.close(theirs)
        shown = b""
        # The end of a terminal that nobody writes to any more is an error on Linux.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                shown += piece
        assert watching.wait(30) == 0
    os.close(ours)

    assert b"running, ready" in shown
    assert b"Ctrl-C stops" in shown
    assert b"\x1b[1A" in shown, "the second picture is drawn over the first"
