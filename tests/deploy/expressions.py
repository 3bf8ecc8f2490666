"""Every PromQL expression that is deployed, and the names in it."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.deploy.programs import DEPLOY, GRAFANA, read_yaml

RULES = DEPLOY / "prometheus/rules.yaml"
DASHBOARD = GRAFANA / "dashboards/replicator.json"

_COMPARISON = re.compile(r"(?P<value>.+) (?:==|>|<) (?P<limit>\d+(?:\.\d+)?)")


class Expression(NamedTuple):
    """One expression and where it stands."""

    place: str
    text: str


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules of a kind: ``alert`` or ``record``."""
    groups = read_yaml(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def of_dashboard() -> Iterator[Expression]:
    for panel in panels():
        for target in panel["targets"]:
            yield Expression(f"panel {panel['title']}", target["expr"])


def of_recordings() -> Iterator[Expression]:
    for rule in rules("record"):
        yield Expression(f"rule {rule['record']}", rule["expr"])


def of_alerts() -> Iterator[Expression]:
    """Yield what alerts compare: an alert's own expression has no data while all is well."""
    for rule in rules("alert"):
        for clause in rule["expr"].split(" and "):
            compared = _COMPARISON.fullmatch(clause)
            assert compared is not None, f"{rule['alert']}: {clause} is no comparison"
            value = compared["value"]
            if value.startswith("absent("):
                value = value.removeprefix("absent(").removesuffix(")")
            yield Expression(f"alert {rule['alert']}", value)
