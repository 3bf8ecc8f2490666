"""A real Prometheus with the project's rules, on loopback, in a hurry."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from tests.deploy.expressions import RULES
from tests.deploy.programs import program
from tests.support.ports import free_port
from tests.support.wait import wait_until


class Series(NamedTuple):
    """One series of an answer, at the moment of the question."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """Scrapes one target every half second as the job that the rules know."""

    def __init__(self, directory: Path, target: str) -> None:
        self._directory = directory
        self._url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "replicator", "static_configs": [{"targets": [target]}]}
            ],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        log = self._directory / "prometheus.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={self._directory / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._directory / 'prometheus'}",
                    f"--web.listen-address={self._url.removeprefix('http://')}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(self._is_ready, 60, "Prometheus's readiness")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[Series]:
        """Return the instant vector of an expression; a wrong one is an error."""
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert answer["data"]["resultType"] == "vector", expression
        return [
            Series(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]
        ]

    def value(self, expression: str) -> float | None:
        """Return the value of the only series; none where there is no series."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0].value if found else None

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health."""
        groups = self._get("/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _is_ready(self) -> bool:
        assert self._process is not None
        log = self._directory / "prometheus.log"
        assert self._process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self._url + path, timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as err:
            raise AssertionError(f"{path}: {err.read().decode()}") from err
