"""The image, run: what Kubernetes and Docker rely on."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator import __version__
from tests.image.container import OUTBOX, RANDOM_USER, Container, Engine, volume
from tests.support.ports import free_port
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(300)

_ENDED_BY_SIGTERM = 143
_ALONE = "--network=none"
_TABLE = {"TABLES": "a.b"}


@pytest.fixture
def alone(engine: Engine, tmp_path: Path) -> Iterator[Container]:
    """A service that reaches no server."""
    with engine.container(_TABLE, _ALONE, volume(tmp_path)) as container:
        yield container


def last_words(container: Container) -> tuple[str, str]:
    """Return error and hint of the last line: Kubernetes' termination message."""
    end = container.log()[-1]
    assert end["event"] == "ended by an error"
    assert "password of the test" not in json.dumps(end)
    return end["error"], end["hint"]


def test_the_image_has_the_program_and_nothing_of_the_sandbox(engine: Engine) -> None:
    script = (
        "import importlib.util as u, sys, json, replicator; print(json.dumps(["
        "replicator.__version__, sys.version_info[:2], [name for name in "
        "('replicator_sandbox', 'pip', 'pytest', 'tests') if u.find_spec(name)]]))"
    )
    with engine.container({}, _ALONE, "--entrypoint=python", command=("-c", script)) as container:
        container.start()
        assert container.wait(30) == 0
        (said,) = container.log()
    assert said == [__version__, [3, 13], []]


def test_it_is_healthy_as_a_random_user_who_may_write_the_outbox_and_nothing_else(
    alone: Container,
) -> None:
    alone.start()
    wait_until(alone.is_live, 60, "health")

    probe = alone.run("sh", "-c", f"id -u; grep -h Cap.ff /proc/1/status; stat -c %a {OUTBOX}/*")
    user, capabilities, *modes = probe.stdout.splitlines()
    assert user == RANDOM_USER.partition(":")[0]
    assert int(capabilities.split()[1], 16) == 0
    assert set(modes) == {"600"}
    for place in ("/", "/opt/replicator", "/etc"):
        assert "Read-only" in alone.run("touch", f"{place}/x").stderr
    said = alone.run("replicator", "status", "--json")
    assert json.loads(said.stdout)["running"] is True


def test_nobody_who_is_not_healthy_is_called_so(engine: Engine, tmp_path: Path) -> None:
    elsewhere = _TABLE | {"HTTP__LISTEN": "127.0.0.1:9999"}
    with engine.container(elsewhere, _ALONE, volume(tmp_path)) as container:
        container.start()
        wait_until(lambda: any(line["event"] == "starting" for line in container.log()), 60, "log")
        assert not container.is_live()


@pytest.mark.parametrize("seconds", [0.0, 1.0, 8.0])
def test_sigterm_as_process_1_ends_it_in_time(alone: Container, seconds: float) -> None:
    alone.start()
    # Before it has a handler the kernel drops a signal to process 1.
    wait_until(alone.handles_sigterm, 20, "its handler")
    alone.at(seconds)
    alone.terminate()

    assert alone.wait(10) in (0, _ENDED_BY_SIGTERM)


def test_a_stop_after_it_has_begun_is_in_order(alone: Container) -> None:
    alone.start()
    wait_until(alone.is_live, 60, "health")
    alone.terminate()

    assert alone.wait(15) == 0
    assert alone.log()[-1]["event"] == "stopped"


def test_a_second_sigterm_ends_it_at_once(
    engine: Engine,
    rabbitmq: PrivateRabbitMQ,
    vhost: str,
    rethinkdb: RethinkServer,
    connection: Any,
    database: str,
    tmp_path: Path,
) -> None:
    # Given entries that a frozen RabbitMQ does not confirm, and a stop that waits for it
    http = f"127.0.0.1:{free_port()}"
    settings = {
        "TABLES": f"{database}.mytable",
        "RETHINKDB__URL": str(rethinkdb.url),
        "RABBITMQ__URL": vhost,
        "HTTP__LISTEN": http,
        "DRAIN_TIMEOUT": "60s",
    }
    with engine.container(settings, "--network=host", volume(tmp_path)) as container:
        container.start()
        wait_until(lambda: status(http).get("ready"), 60, f"readiness: {container.log()}")
        rabbitmq.pause()
        try:
            r.db(database).table("mytable").insert({"id": 1}).run(connection)
            wait_until(lambda: status(http)["outbox"]["pending"] == 1, 30, "an entry")
            container.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                container.wait(2)
            # When a second order comes
            container.terminate()
            before = time.monotonic()
            # Then it ends at once
            assert container.wait(10) == _ENDED_BY_SIGTERM
            assert time.monotonic() - before < 5
        finally:
            rabbitmq.resume()


def status(http: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://{http}/status", timeout=5) as answer:
            facts: dict[str, Any] = json.load(answer)
    except OSError:
        return {}
    return facts


def test_a_wrong_password_is_told_in_json(engine: Engine, vhost: str, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("the wrong password of the test")
    password.chmod(0o444)
    settings = _TABLE | {
        "RABBITMQ__URL": vhost.replace("guest:guest@", "guest@"),
        "RABBITMQ__PASSWORD_FILE": "/run/password",
        "HTTP__LISTEN": "off",
    }
    mounts = (f"--volume={password}:/run/password:ro", volume(tmp_path))
    with engine.container(settings, "--network=host", *mounts) as container:
        container.start()
        assert container.wait(60) == 2
        error, hint = last_words(container)
    assert "refuses the user or password" in error
    assert "rabbitmq.password_file" in hint


def test_a_full_volume_is_told_in_json(engine: Engine) -> None:
    full = _TABLE | {"OUTBOX__URL": "sqlite:////run/outbox/outbox.db"}
    with engine.container(full, _ALONE, "--tmpfs=/run/outbox:size=32k,mode=1777") as container:
        container.start()
        assert container.wait(60) == 1
        error, hint = last_words(container)
    assert "disk is full" in error or "disk I/O error" in error
    assert "free" in hint


def test_a_volume_that_is_not_its_own_is_told_in_json(engine: Engine, tmp_path: Path) -> None:
    with engine.container(_TABLE, _ALONE, volume(tmp_path, is_own=False)) as container:
        container.start()
        assert container.wait(60) == 2
        error, hint = last_words(container)
    assert OUTBOX in error
    assert "write" in hint


def test_a_wrong_setting_is_told_in_json(engine: Engine) -> None:
    with engine.container({"TABLES": "nodot"}, _ALONE) as container:
        container.start()
        assert container.wait(60) == 2
        error, _ = last_words(container)
    assert error.startswith("tables[0].name")
