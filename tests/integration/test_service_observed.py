"""What the running service shows: every metric of the contract, and never a password."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.deploy.programs import program
from tests.support.consumer import Consumer
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

_STATES = ("initializing", "ready", "lost", "paused")
_OPS = ("create", "update", "delete")
_CAUSES = ("start", "disconnect", "overflow", "aborted", "requested")


def test_every_metric_of_the_contract_is_there(
    replicator: ReplicatorProcess, vhost: str, connection: Any, database: str
) -> None:
    table = f"{database}.mytable"
    with Consumer(vhost) as consumer:
        replicator.start_and_wait()
        r.db(database).table("mytable").insert({"id": 1}).run(connection)
        consumer.wait_for_count(1)
        wait_until(lambda: replicator.metric("replicator_outbox_entries") == 0, 10, "settled")
        _, text = replicator.get("metrics")
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    of_table: dict[str, tuple[str, list[dict[str, str]]]] = {
        "replicator_changes_captured_total": (
            "counter",
            [{"op": op, "origin": o} for op in _OPS for o in ("feed", "snapshot", "resync")],
        ),
        "replicator_entries_confirmed_total": ("counter", [{"op": op} for op in _OPS]),
        "replicator_unroutable_total": ("counter", [{}]),
        "replicator_feed_state": ("gauge", [{"state": state} for state in _STATES]),
        "replicator_resyncs_total": ("counter", [{"cause": cause} for cause in _CAUSES]),
        "replicator_gaps_total": ("counter", [{"cause": cause} for cause in _CAUSES]),
        "replicator_resync_repairs_total": ("counter", [{"op": op} for op in _OPS]),
        "replicator_snapshot_documents_total": ("counter", [{}]),
        "replicator_changes_skipped_total": ("counter", [{}]),
    }
    expected = {
        name: (kind, [{"table": table, **labels} for labels in series])
        for name, (kind, series) in of_table.items()
    } | {
        "replicator_build_info": ("gauge", [{"version": ""}]),
        "replicator_publish_outcomes_total": (
            "counter",
            [{"outcome": outcome} for outcome in ("confirmed", "nacked", "returned")],
        ),
        "replicator_entries_parked_total": ("counter", []),
        "replicator_delivery_seconds": ("histogram", [{}]),
        "replicator_confirm_seconds": ("histogram", [{}]),
        "replicator_commit_seconds": ("histogram", [{}]),
        "replicator_in_flight": ("gauge", [{}]),
        "replicator_outbox_entries": ("gauge", [{"state": "pending"}, {"state": "parked"}]),
        "replicator_outbox_bytes": ("gauge", [{}]),
        "replicator_outbox_oldest_entry_age_seconds": ("gauge", [{}]),
        "replicator_connected": ("gauge", [{"peer": "rethinkdb"}, {"peer": "rabbitmq"}]),
        "replicator_reconnects_total": ("counter", [{"peer": "rethinkdb"}, {"peer": "rabbitmq"}]),
        "replicator_broker_blocked": ("gauge", [{}]),
    }
    lines = text.splitlines()
    for name, (kind, series) in expected.items():
        assert types.get(name) == kind, f"{name}: {types.get(name)}"
        sample = f"{name}_count" if kind == "histogram" else name
        for labels in series:
            wanted = [f'{key}="{value}' for key, value in labels.items()]
            assert any(
                line.startswith((f"{sample} ", f"{sample}{{")) and all(w in line for w in wanted)
                for line in lines
            ), f"{sample} {labels}"
    assert replicator.metric("replicator_changes_captured_total", op="create") == 1
    assert replicator.metric("replicator_feed_state", state="ready") == 1
    assert replicator.metric("replicator_connected") == 2


def test_promtool_has_no_complaint(replicator: ReplicatorProcess) -> None:
    promtool = program("promtool")
    replicator.start_and_wait()
    _, text = replicator.get("metrics")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def secretive(  # noqa: PLR0917 -- fixtures
    request: pytest.FixtureRequest,
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    rabbitmq: PrivateRabbitMQ,
    vhost: str,
    connection: Any,
    database: str,
    tmp_path: Path,
) -> Iterator[tuple[ReplicatorProcess, list[str]]]:
    """A replicator whose passwords are markers, in the URLs or in files; and the markers."""
    user = f"u{uuid.uuid4().hex[:12]}"
    of_rethinkdb, of_rabbitmq = "marker-one-%C3%A4", "marker-two-7"
    users = r.db("rethinkdb").table("users")
    users.insert({"id": user, "password": "marker-one-ä"}).run(connection)
    r.db(database).table("mytable").grant(user, {"read": True}).run(connection)
    rabbitmq.ctl("add_user", user, of_rabbitmq)
    rabbitmq.ctl("set_permissions", "-p", vhost.rpartition("/")[2], user, ".*", ".*", ".*")
    where = f"{rethinkdb.host}:{rethinkdb.port}"
    if request.param == "url":
        replicator.settings |= {
            "RETHINKDB__URL": f"rethinkdb://{user}:{of_rethinkdb}@{where}",
            "RABBITMQ__URL": vhost.replace("guest:guest", f"{user}:{of_rabbitmq}"),
        }
    else:
        (tmp_path / "one").write_text("marker-one-ä\n")
        (tmp_path / "two").write_text(f"{of_rabbitmq}\n")
        replicator.settings |= {
            "RETHINKDB__URL": f"rethinkdb://{user}@{where}",
            "RETHINKDB__PASSWORD_FILE": str(tmp_path / "one"),
            "RABBITMQ__URL": vhost.replace("guest:guest", user),
            "RABBITMQ__PASSWORD_FILE": str(tmp_path / "two"),
        }
    replicator.settings["LOG__LEVEL"] = "debug"
    replicator.may_fork = False  # the system shows the arguments of a program only
    yield replicator, ["marker-one", "marker-two"]
    replicator.close()
    users.get(user).delete().run(connection)
    rabbitmq.ctl("delete_user", user)


@pytest.mark.parametrize("secretive", ["url", "file"], indirect=True)
def test_passwords_are_shown_nowhere(
    secretive: tuple[ReplicatorProcess, list[str]], rabbitmq: PrivateRabbitMQ
) -> None:
    replicator, markers = secretive
    replicator.start_and_wait()
    # Errors talk more than success does.
    rabbitmq.ctl("close_all_connections", "--global", "maintenance")
    wait_until(
        lambda: replicator.metric("replicator_reconnects_total", peer="rabbitmq") == 1, 20, "again"
    )
    commands = [
        replicator.run(*arguments)
        for arguments in (["status", "--json"], ["check"], ["feed", "list"], ["run"])
    ]
    shown = {
        "log": replicator.log(),
        "status": str(replicator.get("status")),
        "readyz": str(replicator.get("readyz")),
        "metrics": str(replicator.get("metrics")),
        "ps": Path(f"/proc/{replicator.pid}/cmdline").read_text(),
        "commands": "".join(done.stdout + done.stderr for done in commands),
    }
    for place, text in shown.items():
        assert text
        for marker in markers:
            assert marker not in text, f"{marker} is shown in {place}"
    assert replicator.terminate() == 0
    assert not any(marker in replicator.log() for marker in markers)
