"""The Dockerfile and the compose file: what can be judged without a Docker daemon."""

import http.server
import json
import re
import subprocess
import sys
import threading
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from replicator import __version__
from replicator.config import load_settings
from replicator.web.server import _ROUTES
from tests.deploy.programs import DEPLOY, PROJECT, ask, read_yaml, said
from tests.support.servers import RethinkServer

_DOCKERFILE = DEPLOY / "Dockerfile"
_COMPOSE = DEPLOY / "compose.yaml"
_EXACT = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")


def _instructions(name: str) -> list[str]:
    lines = _DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def _variables() -> dict[str, str]:
    """Return the environment of the image."""
    pairs = (pair.partition("=") for line in _instructions("ENV") for pair in line.split())
    return {name: value for name, _, value in pairs if name.startswith("REPLICATOR_")}


@pytest.fixture(scope="module")
def compose() -> Any:
    """The compose file as Docker Compose understands it."""
    done = ask("docker-compose", "-f", _COMPOSE, "config", "--format", "json")
    assert done.returncode == 0, said(done)
    return json.loads(done.stdout)


def test_hadolint_has_no_complaint() -> None:
    done = ask("hadolint", _DOCKERFILE)
    assert (done.returncode, said(done)) == (0, "")


def test_hadolint_would_complain_of_a_floating_tag() -> None:
    done = ask("hadolint", "-", stdin="FROM python:latest\n")
    assert done.returncode == 1
    assert "DL3007" in said(done)


def test_the_image_runs_as_nobody_who_can_do_anything() -> None:
    (user,) = _instructions("USER")
    assert user == "10001:10001"
    assert all(
        command.startswith(("python", "groupadd", "/opt")) for command in _instructions("RUN")
    )


def test_the_image_is_pinned_and_is_of_a_python_that_is_tested() -> None:
    (argument,) = _instructions("ARG")
    tag = argument.removeprefix("PYTHON=")
    assert _EXACT.fullmatch(f"python:{tag}")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    version = ".".join(tag.split(".")[:2])
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    assert all("library/python:${PYTHON}" in base for base in _instructions("FROM"))


def test_the_image_needs_no_frontend_from_elsewhere() -> None:
    assert "syntax=" not in _DOCKERFILE.read_text()


def test_what_is_copied_is_there_and_is_let_in() -> None:
    let_in = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copies = [line.split()[:-1] for line in _instructions("COPY") if not line.startswith("--from")]
    copied = {source for sources in copies for source in sources}
    assert copied == let_in
    for source in copied:
        assert (PROJECT / source).exists(), source


def test_the_image_knows_the_settings_and_the_probe() -> None:
    settings = load_settings(environ={**_variables(), "REPLICATOR_TABLES": "a.b"})
    assert settings.http.listen is not None
    (port,) = _instructions("EXPOSE")
    assert int(port) == settings.http.listen.port
    (volume,) = _instructions("VOLUME")
    assert settings.outbox.url == f"sqlite:///{volume}/outbox.db"
    (check,) = _instructions("HEALTHCHECK")
    probed = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert probed is not None
    assert int(probed[1]) == settings.http.listen.port
    assert probed[2] in _ROUTES


def _health(port: int, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the image's own command, at another port."""
    (check,) = _instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python"
    assert ":9464/livez" in command[2]
    script = command[2].replace(":9464", f":{port}")
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=directory
    )


@pytest.mark.parametrize(("answer", "status"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_the_process_answers(
    answer: int, status: int, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answer)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = _health(server.server_port, tmp_path)
        thread.join(10)

    assert (done.returncode, asked) == (status, ["/livez"])


def test_the_health_check_of_a_process_that_is_gone_fails(tmp_path: Path) -> None:
    done = _health(1, tmp_path)

    assert done.returncode == 1
    assert "Connection refused" in done.stderr


def test_compose_brings_everything_up_in_order(compose: Any) -> None:
    services = compose["services"]
    assert set(services) == {
        "files",
        "grafana",
        "prometheus",
        "rabbitmq",
        "replicator",
        "rethinkdb",
        "table",
    }
    waits = {name: each["condition"] for name, each in services["replicator"]["depends_on"].items()}
    assert waits == {"rabbitmq": "service_healthy", "table": "service_completed_successfully"}
    for name, service in services.items():
        assert _EXACT.fullmatch(service["image"]), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
    assert services["replicator"]["image"] == f"replicator:{__version__}"
    assert services["replicator"]["init"] is True
    assert services["replicator"]["read_only"] is True
    assert services["replicator"]["cap_drop"] == ["ALL"]


def _clone(compose: Any) -> dict[str, Path]:
    """Return what is mounted from the clone, by the name that containers have for it."""
    return {
        volume["target"].replace("/clone/", "/files/"): Path(volume["source"])
        for volume in compose["services"]["files"]["volumes"]
        if volume["type"] == "bind"
    }


def _in_clone(compose: Any, path: str) -> Path:
    """Return the file of the clone that containers read under this path."""
    (source, below), *_ = (
        (source, path.removeprefix(f"{target}/"))
        for target, source in _clone(compose).items()
        if path.startswith(f"{target}/")
    )
    return source / below


def test_only_one_container_reads_the_clone_and_as_root(compose: Any) -> None:
    # Others could not, where the clone was made with umask 077.
    readers = {
        name
        for name, service in compose["services"].items()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    }
    assert readers == {"files"}
    assert compose["services"]["files"]["user"] == "root"
    assert "secrets" not in compose
    for source in _clone(compose).values():
        assert source.is_dir(), source
    for name in ("table", "prometheus"):
        condition = compose["services"][name]["depends_on"]["files"]["condition"]
        assert condition == "service_completed_successfully"
    builds = [each["build"] for each in compose["services"].values() if "build" in each]
    assert builds
    for build in builds:
        assert (Path(build["context"]) / build["dockerfile"]).samefile(_DOCKERFILE)


def test_compose_gives_the_replicator_settings_that_it_takes(compose: Any) -> None:
    service = compose["services"]["replicator"]
    environment = _variables() | service["environment"]
    variable = "REPLICATOR_RABBITMQ__PASSWORD_FILE"
    password = _in_clone(compose, environment[variable])
    settings = load_settings(environ=environment | {variable: str(password)})
    broker = compose["services"]["rabbitmq"]["environment"]
    assert settings.rabbitmq.password == broker["RABBITMQ_DEFAULT_PASS"]
    assert settings.rabbitmq.url.user == broker["RABBITMQ_DEFAULT_USER"]
    assert settings.rabbitmq.url.hosts[0].host == "rabbitmq"
    assert settings.rethinkdb.url.hosts[0].host == "rethinkdb"
    grace = service["stop_grace_period"]
    assert grace == "1m0s"
    assert timedelta(minutes=1) > settings.drain_timeout


def test_composes_prometheus_and_grafana_meet_the_replicator(compose: Any) -> None:
    config = read_yaml(DEPLOY / "prometheus/prometheus.yaml")
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["replicator:9464"]}]
    (file, _) = compose["services"]["prometheus"]["command"]
    assert _in_clone(compose, file.partition("=")[2]).samefile(
        DEPLOY / "prometheus/prometheus.yaml"
    )
    grafana = compose["services"]["grafana"]["environment"]
    provisioning = _in_clone(compose, grafana["GF_PATHS_PROVISIONING"])
    (source,) = read_yaml(provisioning / "datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read_yaml(provisioning / "dashboards/replicator.yaml")["providers"]
    home = grafana["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/replicator.json"
    assert _in_clone(compose, home).exists()


def test_the_tutorials_table_is_made_once(rethinkdb: RethinkServer, connection: Any) -> None:
    script = [sys.executable, str(DEPLOY / "compose/table.py"), rethinkdb.host, str(rethinkdb.port)]
    try:
        for _ in range(2):
            done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, said(done)
        assert r.db("change_example").table_list().run(connection) == ["mytable"]
    finally:
        if "change_example" in r.db_list().run(connection):
            r.db_drop("change_example").run(connection)
