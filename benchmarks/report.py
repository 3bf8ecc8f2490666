"""The report of a work: a table on the terminal, and JSON for further computing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Measurement, Summary, Verdict, summarize
from benchmarks.work import Work

_HEADINGS = ("case", "program", "median", "range", "ratio")


def text(work: Work, measurements: Sequence[Measurement], verdicts: Iterable[Verdict]) -> str:
    """Return a work's tables, a section for each figure, and its goals."""
    summaries = summarize(measurements)
    lines = [work.title]
    for figure in work.figures:
        rows = _rows(figure, summaries, work.peer)
        if rows:
            heading = f"{figure} (ratio to {work.peer})" if work.peer else figure
            lines += ["", heading, *_table([_HEADINGS, *rows])]
    goals = [_goal_row(each) for each in verdicts]
    if goals:
        lines += ["", *_table([("goal", "wanted", "is", ""), *goals])]
    return "\n".join(lines)


def _rows(
    figure: str, summaries: Mapping[tuple[str, str], Mapping[str, Summary]], peer: str
) -> list[tuple[str, ...]]:
    rows = []
    for (case, program), figures in sorted(
        summaries.items(), key=lambda item: case_order(*item[0])
    ):
        if figure not in figures:
            continue
        own = figures[figure]
        theirs = summaries.get((case, peer), {}).get(figure)
        ratio = f"{own.median / theirs.median:.2f}" if theirs and theirs.median else ""
        spread = f"{number(own.lowest)} to {number(own.highest)}"
        rows.append((case, program, number(own.median), spread, ratio))
    return rows


def case_order(case: str, program: str = "") -> tuple[float, str]:
    """Return a key that sorts cases by the number with which they begin."""
    digits = case.partition(" ")[0].partition("/")[0].replace(",", "")
    return (float(digits) if digits.isdigit() else 0.0, program)


def _goal_row(verdict: Verdict) -> tuple[str, ...]:
    goal = verdict.goal
    wanted = f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:g}"
    value = "unknown" if verdict.value is None else f"{verdict.value:.2f}"
    what = f"{goal.what} ({goal.case})" if goal.case else goal.what
    return (what, wanted, value, "reached" if verdict.is_reached else "MISSED")


def number(value: float) -> str:
    """Write a figure with about three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def append(path: Path, run: Mapping[str, Any]) -> None:
    """Append a run to a JSON file, replacing its own earlier state there."""
    runs = json.loads(path.read_text()) if path.exists() else []
    runs = [each for each in runs if each["id"] != run["id"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A run that is killed in the middle of writing must not destroy the runs before it.
    new = path.with_suffix(".new")
    new.write_text(json.dumps([*runs, run], indent=1) + "\n")
    new.replace(path)
