"""A service that may open nothing more: it says so, answers its probe, and goes on when it may."""

import itertools
import resource
from pathlib import Path
from typing import Any

from rethinkdb import r

from replicator.descriptors import RESERVE
from tests.support.replicator import ReplicatorProcess
from tests.support.wait import wait_until

_SECONDS = 40


def test_a_service_without_descriptors_says_so_and_answers_its_probe(
    replicator: ReplicatorProcess, connection: Any, database: str
) -> None:
    # Given a service that has raised its limit
    replicator.settings["TABLES"] = f"{database}.*"
    replicator.start_and_wait()
    pid = replicator.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == hard - RESERVE
    # When it may open nothing more, and needs to
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    lowest = next(number for number in itertools.count() if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))
    for number in range(4):  # a connection or two that were open just now are not any more
        r.db(database).table_create(f"later{number}").run(connection)
    # Then it is not ready, says why, and is not taken for dead
    wait_until(
        lambda: "Too many open files" in str(replicator.get("readyz")[1]), _SECONDS, "the reason"
    )
    assert replicator.get("livez")[0] == 200
    assert "LimitNOFILE" in replicator.log()
    assert "Traceback" not in replicator.log()
    # And it goes on when it may
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    replicator.wait_until_ready()
    assert replicator.terminate() == 0
