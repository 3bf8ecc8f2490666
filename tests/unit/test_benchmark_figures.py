import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import Goal, Measurement, as_json, judge, percentile, summarize
from benchmarks.work import Work

ROUNDS = [
    Measurement("400 B", "replicator", 1, {"per_second": 30.0, "memory": 90.0}),
    Measurement("400 B", "tutorial", 1, {"per_second": 10.0, "memory": 30.0}),
    Measurement("400 B", "replicator", 2, {"per_second": 10.0, "memory": 80.0}),
    Measurement("400 B", "tutorial", 2, {"per_second": 30.0, "memory": 30.0}),
    Measurement("400 B", "replicator", 3, {"per_second": 24.0, "memory": 85.0}),
    Measurement("400 B", "tutorial", 3, {"per_second": 20.0, "memory": 30.0}),
]
RATE = Goal("rate", "per_second", at_least=1.0, peer="tutorial", case="400 B")


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_the_value_of_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_percentile_of_nothing_or_beyond_all_is_refused() -> None:
    for values, percent in (([], 50), ([1.0], 101), ([1.0], -1)):
        with pytest.raises(ValueError, match="no percentile"):
            percentile(values, percent)


def test_a_summary_has_the_median_and_the_spread_of_all_rounds() -> None:
    summary = summarize(ROUNDS)["400 B", "replicator"]["per_second"]
    assert summary == (24.0, 10.0, 30.0)


@pytest.mark.parametrize(
    ("goal", "value", "is_reached"),
    [
        (RATE, 1.2, True),
        (RATE._replace(at_least=1.2), 1.2, True),
        (RATE._replace(at_least=1.21), 1.2, False),
        (RATE._replace(figure="memory", at_least=None, at_most=2.0), 85 / 30, False),
        (RATE._replace(figure="memory", at_least=None, at_most=90, peer=None), 85, True),
        (RATE._replace(figure="memory", at_least=None, at_most=84, peer=None), 85, False),
        (RATE._replace(at_least=None, at_most=0, figure="memory", peer=None), 85, False),
    ],
)
def test_a_goal_compares_medians(goal: Goal, value: float, *, is_reached: bool) -> None:
    verdict = judge(goal, summarize(ROUNDS))
    assert verdict.value == pytest.approx(value)
    assert verdict.is_reached is is_reached


@pytest.mark.parametrize("missing", [{"peer": "nobody"}, {"case": "1 B"}, {"figure": "p50_ms"}])
def test_a_goal_without_anything_to_compare_is_missed(missing: dict) -> None:
    verdict = judge(RATE._replace(**missing), summarize(ROUNDS))
    assert (verdict.value, verdict.is_reached) == (None, False)


def test_a_goal_may_compare_with_another_case() -> None:
    fifty = [*ROUNDS, Measurement("50 tables", "replicator", 1, {"per_second": 18.0})]
    goal = RATE._replace(case="50 tables", peer="replicator", peer_case="400 B", at_least=0.8)
    assert judge(goal, summarize(fifty)).value == pytest.approx(0.75)


def test_the_report_says_medians_ratios_and_missed_goals() -> None:
    work = Work("drain", "Draining", lambda _run: iter(ROUNDS), ("per_second",))
    summaries = summarize(ROUNDS)
    goals = [judge(goal, summaries) for goal in (RATE, RATE._replace(at_least=2.0))]
    text = report.text(work, ROUNDS, goals)
    assert "400 B  replicator  24.00   10.00 to 30.00  1.20" in text
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["reached", "MISSED"]


def test_a_run_replaces_its_own_earlier_state_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    outcome = as_json(ROUNDS, [judge(RATE, summarize(ROUNDS))])
    report.append(file, {"id": "a", "works": {}})
    report.append(file, {"id": "b", "works": {}})
    report.append(file, {"id": "b", "works": {"drain": outcome}})
    first, second = json.loads(file.read_text())
    assert first == {"id": "a", "works": {}}
    assert second["works"]["drain"]["measurements"][0]["figures"]["per_second"] == 30.0
    assert second["works"]["drain"]["goals"][0]["is_reached"] is True
