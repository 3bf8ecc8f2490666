# ruff: noqa: INP001 -- a script
"""Write the files that Grafana and the Prometheus operator read, from those that people edit.

    tools/monitoring.py            writes both files
    tools/monitoring.py --check    exits with status 1 if one of them is not up to date

The dashboard comes from grafana/panels.yaml; the operator's PrometheusRule from
deploy/prometheus/rules.yaml, which is what promtool tests.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

_PROJECT: Final = Path(__file__).parent.parent
_PANELS: Final = _PROJECT / "grafana/panels.yaml"
_DASHBOARD: Final = _PROJECT / "grafana/dashboards/replicator.json"
_RULES: Final = _PROJECT / "deploy/prometheus/rules.yaml"
_RESOURCE: Final = _PROJECT / "deploy/kubernetes/components/rules/prometheus-rule.yaml"

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS: Final = 24  # the width of Grafana's grid
_HEIGHTS: Final = {"stat": 4, "timeseries": 8, "heatmap": 8, "state-timeline": 8}


def _variables() -> list[dict[str, Any]]:
    queries = {
        "job": ("label_values(replicator_build_info, job)", "Job"),
        "instance": ('label_values(replicator_build_info{job=~"$job"}, instance)', "Instance"),
        "table": ('label_values(replicator_feed_state{job=~"$job"}, table)', "Table"),
    }
    source = {"name": "datasource", "label": "Data source", "type": "datasource"}
    return [{**source, "query": "prometheus"}] + [
        {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
        for name, (query, label) in queries.items()
    ]


def _targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "refId": chr(ord("A") + position),
            "datasource": _DATASOURCE,
            "expr": query["expr"],
            "legendFormat": query["legend"],
            # A heatmap needs the buckets of each moment, a stat only the last value.
            "format": "heatmap" if panel["type"] == "heatmap" else "time_series",
            "instant": panel["type"] == "stat",
            "range": panel["type"] != "stat",
        }
        for position, query in enumerate(panel["queries"])
    ]


def _fields(panel: dict[str, Any]) -> dict[str, Any]:
    # The colours: each begins at its value, the first one below all.
    steps = [
        {"value": step.get("from"), "color": step["color"]}
        for step in panel.get("steps", [{"color": "green"}])
    ]
    mode = {"mode": "thresholds" if "steps" in panel else "palette-classic"}
    return {
        "defaults": {
            "unit": panel["unit"],
            "min": 0,
            "color": mode,
            "thresholds": {"mode": "absolute", "steps": steps},
            "mappings": [
                {"type": "value", "options": {str(value): {"text": text}}}
                for value, text in panel.get("texts", {}).items()
            ],
        },
        "overrides": [],
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"}
    if kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": "s"}, "legend": {"show": True}}
    if kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}


def _panel(panel: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    kind = panel["type"]
    return {
        "id": number,
        "title": panel["title"],
        "description": f"{panel['meaning']}\n\nRunbook: docs/operations.md#{panel['runbook']}",
        "type": kind,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": _targets(panel),
        "fieldConfig": _fields(panel),
        "options": _options(kind),
    }


def _panels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        title = {"id": len(placed) + 1, "title": row["row"], "type": "row", "gridPos": place}
        placed.append({**title, "collapsed": False, "panels": []})
        top += 1
        left = 0
        for panel in row["panels"]:
            width, height = panel["width"], _HEIGHTS[panel["type"]]
            if left + width > _COLUMNS:
                left, top = 0, top + height
            place = {"x": left, "y": top, "w": width, "h": height}
            placed.append(_panel(panel, len(placed) + 1, place))
            left += width
        top += height
    return placed


def _dashboard() -> str:
    rows = yaml.safe_load(_PANELS.read_text())
    dashboard = {
        "uid": "replicator",
        "title": "Replicator: RethinkDB to RabbitMQ",
        "tags": ["replicator", "rethinkdb", "rabbitmq"],
        "description": "Made by tools/monitoring.py from grafana/panels.yaml: edit that.",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": _panels(rows),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _prometheus_rule() -> str:
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "replicator",
            "labels": {"app.kubernetes.io/name": "replicator"},
        },
        "spec": yaml.safe_load(_RULES.read_text()),
    }
    first = "# Made by tools/monitoring.py from deploy/prometheus/rules.yaml: edit that.\n"
    return first + yaml.safe_dump(resource, sort_keys=False, width=100)


def main(arguments: list[str]) -> int:
    """Write both files, or compare them; returns the exit status."""
    made = {_DASHBOARD: _dashboard(), _RESOURCE: _prometheus_rule()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if arguments == ["--check"]:
        for path in stale:
            name = path.relative_to(_PROJECT)
            print(f"{name} is not up to date: run tools/monitoring.py", file=sys.stderr)  # noqa: T201
        return 1 if stale else 0
    if arguments:
        print("usage: tools/monitoring.py [--check]", file=sys.stderr)  # noqa: T201
        return 2
    for path in stale:
        path.write_text(made[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
