"""Run benchmarks: ``python -m benchmarks drain live --rounds 3 --scale 0.1 --output DIRECTORY``.

Starts private servers, runs each work's programs in turn, prints medians, spread and ratios, and
appends everything to ``results.json`` in the output directory, beside plots of it. With
``--strict`` the exit status is 1 when a goal was missed.
"""

import argparse
import datetime as dt
import importlib.util
import random
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.figures import as_json, judge, summarize
from benchmarks.servers import servers
from benchmarks.work import Run, Work
from benchmarks.works import COMPARISONS, WORKS


def main() -> None:
    """Run the works that the command line names; all of them when it names none."""
    arguments = _arguments()
    # By default SIGTERM would end it at once, and leave servers and feeders running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = arguments.work or list(WORKS)
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    missed = 0
    with (
        servers(arguments.rabbitmq_args) as on,
        tempfile.TemporaryDirectory(prefix="replicator-bench-") as directory,
    ):
        run = Run(on, Path(directory), arguments.rounds, arguments.scale, random.Random(seed))
        record: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "machine": machine.facts(on),
            "rounds": run.rounds,
            "scale": run.scale,
            "seed": seed,
            "rabbitmq_args": arguments.rabbitmq_args,
            "works": {},
        }
        for name in wanted:
            outcome = _measure((WORKS | COMPARISONS)[name], run)
            record["works"][name] = outcome
            missed += sum(not goal["is_reached"] for goal in outcome["goals"])
            report.append(arguments.output / "results.json", record)
    for path in _plots(record, arguments.output):
        print(f"drew {path}")
    if arguments.strict and missed:
        sys.exit(f"{missed} goals were missed")


def _measure(work: Work, run: Run) -> dict[str, Any]:
    title = f"{work.title}, RabbitMQ {run.servers.rabbitmq_version}"
    if run.scale != 1:
        title += f", times {run.scale:g}"
    work = work._replace(title=title)
    print(f"\n{work.name}: {work.title}; about {work.minutes:g} minutes when full", flush=True)
    started = time.monotonic()
    measurements = list(work.measure(run))
    summaries = summarize(measurements)
    verdicts = [judge(goal, summaries) for goal in work.goals]
    minutes = (time.monotonic() - started) / 60
    print(f"\n{report.text(work, measurements, verdicts)}\n({minutes:.1f} minutes)", flush=True)
    return {
        "title": work.title,
        "peer": work.peer,
        "first_figure": work.figures[0],
        "minutes": round(minutes, 2),
        **as_json(measurements, verdicts),
    }


def _plots(record: dict[str, Any], directory: Path) -> list[Path]:
    """Draw the run; without matplotlib, say what would install it."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plots: they need requirements-bench.txt, which `make bench` installs")
        return []
    from benchmarks.plots import draw_run  # noqa: PLC0415 - needs what may not be there

    return draw_run(record, directory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("work", nargs="*", help=", ".join([*WORKS, *COMPARISONS]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full work")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seed", type=int, help="of the order in which programs take turns")
    parser.add_argument(
        "--rabbitmq-args",
        default="",
        help="more arguments of RabbitMQ's Erlang VM, such as '+hmbs 4000000'",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
