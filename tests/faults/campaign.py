"""Many fault runs: `python -m tests.faults.campaign --runs 500 --lanes 3 --output results.jsonl`.

Each lane is a process with servers of its own. Every run is one line of JSON; the exit status is
1 when a promise was broken. A run is repeated with ``--seed N --runs 1``.
"""

import argparse
import json
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.nemeses import NEMESES
from tests.faults.plan import left_out, make_plan
from tests.faults.run import run
from tests.faults.world import Lane

_FAILED = 1


def main() -> int:
    # Order matters: servers are ended by their `with`, which a default SIGTERM would skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_FAILED))
    arguments = _arguments()
    if arguments.lanes > 1:
        return _spread(arguments)
    first = arguments.seed if arguments.seed is not None else secrets.randbelow(10**9)
    failures = 0
    with Lane(is_embedded=arguments.embedded) as lane:
        _say_what_is_left_out(lane)
        for seed in range(first, first + arguments.runs * arguments.step, arguments.step):
            plan = make_plan(seed, lane.abilities(), arguments.only)
            result = run(plan, lane)
            failures += bool(result.violations)
            if arguments.output:
                with arguments.output.open("a") as output:
                    output.write(json.dumps(result.as_json()) + "\n")
            print(
                f"{'FAILED' if result.violations else 'ok'} seed {seed} {result.name}:"
                f" {result.faults} faults, {result.changes} changes, {result.entries} entries,"
                f" {sum(result.gaps.values())} gaps, converged in {result.converged_seconds} s,"
                f" took {result.seconds} s",
                flush=True,
            )
            for violation in result.violations:
                print(violation, flush=True)
    return _FAILED if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--lanes", type=int, default=1, help="so many at once")
    parser.add_argument("--seed", type=int, help="of the first run; left out: a new one")
    parser.add_argument("--step", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=sorted(NEMESES), help="this nemesis, alone")
    parser.add_argument("--embedded", action="store_true", help="do without a real RethinkDB")
    parser.add_argument("--output", type=Path, help="append a line of JSON for each run")
    return parser.parse_args()


def _say_what_is_left_out(lane: Lane) -> None:
    for name, lacking in left_out(lane.abilities()).items():
        print(f"left out: {name}, which needs {' and '.join(lacking)}", flush=True)


def _spread(arguments: argparse.Namespace) -> int:
    """Give each lane every n-th seed."""
    first = arguments.seed if arguments.seed is not None else secrets.randbelow(10**9)
    started = time.monotonic()
    processes = []
    for lane in range(arguments.lanes):
        share = len(range(lane, arguments.runs, arguments.lanes))
        command = [sys.executable, "-m", "tests.faults.campaign", "--runs", str(share)]
        command += ["--seed", str(first + lane), "--step", str(arguments.lanes)]
        command += ["--embedded"] if arguments.embedded else []
        command += ["--only", arguments.only] if arguments.only else []
        command += ["--output", str(arguments.output)] if arguments.output else []
        processes.append(subprocess.Popen(command))
    try:
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    print(f"{arguments.runs} runs from seed {first} in {time.monotonic() - started:.0f} s")
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
