"""The tables of docs/reliability.md: `python -m tests.faults.report results.jsonl`."""

import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Runs = Sequence[dict[str, Any]]


def main() -> None:
    runs = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(totals(runs))
    print()
    print(by_nemesis(runs))


def totals(runs: Runs) -> str:
    """Return a table of what all runs together were."""
    causes: Counter[str] = Counter()
    for run in runs:
        causes.update(run["gaps"])
    failed = [run["seed"] for run in runs if run["violations"]]
    rows = {
        "runs": len(runs),
        "of them with several kinds of fault at once": sum(r["name"] == "mixed" for r in runs),
        "faults injected": _sum(runs, "faults"),
        "changes acknowledged by RethinkDB": _sum(runs, "changes"),
        "writes whose outcome nobody knows (RethinkDB was killed)": _sum(runs, "in_doubt"),
        "entries delivered": _sum(runs, "entries"),
        "deliveries": _sum(runs, "deliveries"),
        "of them again, published again by the replicator": _sum(runs, "duplicates"),
        "of them again, by RabbitMQ (flag `redelivered`)": _sum(runs, "redelivered"),
        "starts of the replicator": _sum(runs, "starts"),
        "gaps recorded": sum(causes.values()),
        **{f"of them for {cause}": count for cause, count in sorted(causes.items())},
        "documents repaired in them": _sum(runs, "repairs"),
        "most memory of a replicator, MB": max(run["max_resident_mb"] for run in runs),
        "largest outbox with its log, MB": max(run["max_outbox_mb"] for run in runs),
        "hours of running": round(_sum(runs, "seconds") / 3600, 1),
        "runs in which a promise was broken": f"{len(failed)} {failed or ''}".strip(),
    }
    lines = [f"| {name} | {_shown(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "| --- | ---: |", *lines])


def by_nemesis(runs: Runs) -> str:
    """Return a table with a row for each nemesis that acted alone, and one for the mixed runs."""
    named: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        named[run["name"]].append(run)
    lines = [
        "| nemesis | runs | faults | duplicates | converged | worst | longest pause | worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(named, key=lambda name: (name == "mixed", name)):
        these = named[name]
        duplicates = 100 * _sum(these, "duplicates") / max(1, _sum(these, "entries"))
        cells = [name, len(these), _sum(these, "faults"), f"{duplicates:.2f}%"]
        for figure in ("converged_seconds", "longest_pause_seconds"):
            values = [run[figure] for run in these]
            cells += [f"{statistics.median(values):.1f} s", f"{max(values):.1f} s"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _sum(runs: Runs, name: str) -> Any:
    return sum(run[name] for run in runs)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
