"""Measurements, and what is computed from them: medians, percentiles, ratios, goals. Pure."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Measurement(NamedTuple):
    """What one program did in one round."""

    case: str
    """The variant of the work, such as ``400 B``; empty if it has only one."""

    program: str
    round: int
    figures: Mapping[str, float]


class Summary(NamedTuple):
    """A figure of a program over all rounds."""

    median: float
    lowest: float
    highest: float


class Goal(NamedTuple):
    """What a figure's median must be, alone or in proportion to a peer's in the same run."""

    what: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    peer: str | None = None
    """The program to compare with; None for an absolute bound."""

    case: str = ""
    program: str = "replicator"
    peer_case: str | None = None
    """The peer's case, if it is another one."""

    peer_figure: str | None = None


class Verdict(NamedTuple):
    goal: Goal
    value: float | None
    """None when nothing could be compared; such a goal is missed."""

    is_reached: bool


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that ``percent`` of all values do not exceed (nearest rank).

    Raises:
        ValueError: no values, or the percentage is not in 0 to 100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(values)} values")
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(0, rank - 1)]


def summarize(
    measurements: Iterable[Measurement],
) -> dict[tuple[str, str], dict[str, Summary]]:
    """Return the summary of each figure, by case and program, in order of appearance."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for each in measurements:
        of_program = values.setdefault((each.case, each.program), {})
        for name, value in each.figures.items():
            of_program.setdefault(name, []).append(value)
    return {
        who: {
            name: Summary(statistics.median(all_of), min(all_of), max(all_of))
            for name, all_of in figures.items()
        }
        for who, figures in values.items()
    }


def judge(goal: Goal, summaries: Mapping[tuple[str, str], Mapping[str, Summary]]) -> Verdict:
    """Return whether a goal is reached, and by which value."""
    own = summaries.get((goal.case, goal.program), {}).get(goal.figure)
    value = own.median if own else None
    if own and goal.peer is not None:
        case = goal.case if goal.peer_case is None else goal.peer_case
        theirs = summaries.get((case, goal.peer), {}).get(goal.peer_figure or goal.figure)
        value = own.median / theirs.median if theirs and theirs.median else None
    is_reached = value is not None and (
        (goal.at_least is None or value >= goal.at_least)
        and (goal.at_most is None or value <= goal.at_most)
    )
    return Verdict(goal, value, is_reached)


def as_json(measurements: Sequence[Measurement], verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Return the JSON form of a work's outcome."""
    return {
        "measurements": [each._asdict() for each in measurements],
        "summary": [
            {"case": case, "program": who, "figures": {k: v._asdict() for k, v in of.items()}}
            for (case, who), of in summarize(measurements).items()
        ],
        "goals": [
            {**each.goal._asdict(), "value": each.value, "is_reached": each.is_reached}
            for each in verdicts
        ],
    }
