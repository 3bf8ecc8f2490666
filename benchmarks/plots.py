"""Plots of a run: bars of each work's first figure, with the spread of its rounds.

Usage: python -m benchmarks.plots RESULTS.json DIRECTORY   (the last run of the file)
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.report import case_order

# The same results make the same file, so that a new plot in the docs is a new measurement.
mpl.rcParams["svg.hashsalt"] = "replicator"
_OWN, _OTHERS = "#1b6ca8", "#b8c4cc"
_LABELS = {
    "per_second": "a second (more is better)",
    "p50_ms": "milliseconds (less is better)",
    "cpu_seconds_per_1000": "CPU seconds per 1,000 changes (less is better)",
    "seconds_grow": "times the seconds for ten times the work (10 is linear)",
}


def draw(name: str, work: Mapping[str, Any], figure: str, directory: Path) -> Path:
    """Draw one work as ``<name>.svg``, with a panel for each case; return its path."""
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for row in work["summary"]:
        if figure in row["figures"]:
            cases.setdefault(row["case"], []).append(row)
    cases = dict(sorted(cases.items(), key=lambda item: case_order(item[0])))
    page = Figure(figsize=(8, 0.8 + sum(0.45 + 0.3 * len(rows) for rows in cases.values())))
    heights = [len(rows) + 0.5 for rows in cases.values()]
    panels = page.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (case, rows) in zip(panels, cases.items(), strict=True):
        _bars(panel, case, rows, figure)
    panels[-1].set_xlabel(_LABELS.get(figure, figure))
    page.suptitle(work["title"], fontsize=10)
    page.tight_layout()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.svg"
    page.savefig(path, metadata={"Date": None})
    return path


def _bars(panel: Any, case: str, rows: list[Mapping[str, Any]], figure: str) -> None:
    rows = sorted(rows, key=lambda row: row["figures"][figure]["median"])
    values = [row["figures"][figure] for row in rows]
    names = [row["program"] for row in rows]
    medians = [value["median"] for value in values]
    below = [value["median"] - value["lowest"] for value in values]
    above = [value["highest"] - value["median"] for value in values]
    colors = [_OWN if name == "replicator" else _OTHERS for name in names]
    panel.barh(names, medians, xerr=[below, above], color=colors, ecolor="#444444", capsize=2)
    panel.set_title(
        case.lstrip("0123456789 ") if case[1:2] == " " else case, fontsize=9, loc="left"
    )
    panel.tick_params(labelsize=8)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def draw_run(record: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draw all works of a run."""
    return [
        draw(name, work, work["first_figure"], directory)
        for name, work in record["works"].items()
        if work["summary"]
    ]


def main() -> None:
    """Draw the last run of a file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plots", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    for path in draw_run(json.loads(arguments.results.read_text())[-1], arguments.directory):
        print(path)


if __name__ == "__main__":
    main()
