"""The demo as users run it: it shows what it promises and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox.host import find_rabbitmq
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.skipif(
        find_rabbitmq() is None and not os.environ.get("CI"),
        reason="rabbitmq-server is not installed",
    ),
]


@contextmanager
def demo(tmp_path: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with a directory of its own for everything that it writes."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RETHINKDB_URL", "RABBITMQ_URL")}
    with subprocess.Popen(
        [sys.executable, "-m", "replicator", "demo", *arguments],
        env=kept | {"TMPDIR": str(tmp_path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_of(directory: Path) -> list[int]:
    """Return the processes whose command line or environment names the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or is another user's
            if str(directory).encode() in text:
                found.append(int(entry.name))
    return found


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_the_copy_equals_the_table_after_all_that_breaks(short_path: Path) -> None:
    with demo(short_path, "--seconds", "8", "--json") as process:
        out, err = process.communicate(timeout=150)

    assert process.returncode == 0, err
    figures = json.loads(out)
    assert figures["equal"] is True
    assert figures["documents"] > 0
    assert sum(figures["repaired"].values()) > 0
    assert figures["gaps"] == 1
    assert "kill -9 of the replicator" in err
    assert list(short_path.iterdir()) == []
    assert processes_of(short_path) == []


def test_a_demo_that_is_ended_early_leaves_nothing(short_path: Path) -> None:
    with demo(short_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "a writer creates" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (130, "")
    assert list(short_path.iterdir()) == []
    wait_until(lambda: processes_of(short_path) == [], 10, "the end of all processes")


def test_given_servers_are_used_and_left_as_they_were(
    short_path: Path,
    rethinkdb: RethinkServer,
    vhost: str,
    rabbitmq: PrivateRabbitMQ,
    connection: Any,
) -> None:
    databases = r.db_list().run(connection)
    with demo(
        *(short_path, "--seconds", "6", "--json"), RETHINKDB_URL=rethinkdb.url, RABBITMQ_URL=vhost
    ) as process:
        out, err = process.communicate(timeout=150)

    assert process.returncode == 0, err
    assert json.loads(out)["equal"] is True
    assert "the connection of the replicator to RabbitMQ is cut" in err
    assert [name for name in r.db_list().run(connection) if name.startswith("replicator_demo")] == [
        name for name in databases if name.startswith("replicator_demo")
    ]
    assert rabbitmq.list_queues(vhost.rpartition("/")[2]) == {}


def test_without_rabbitmq_it_says_what_to_do(short_path: Path) -> None:
    with demo(short_path, PATH=str(short_path), RABBITMQ_HOME="") as process:
        _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "hint: apt-get install rabbitmq-server" in err


def test_a_wrong_url_is_one_line_without_its_password(short_path: Path) -> None:
    with demo(short_path, RABBITMQ_URL="http://u:hush@h") as process:
        out, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "error: RABBITMQ_URL: must begin with amqp://" in err
    assert "hush" not in out + err
