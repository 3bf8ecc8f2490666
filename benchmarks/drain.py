"""How fast does a backlog in a changefeed reach a durable queue? This project and the tutorial.

The feeder is stopped (SIGSTOP), changes pile up in its feed, it goes on: the time until all lie
in the queue. In turn, in one run, since only ratios say anything on a noisy machine.

Usage: python -m benchmarks.drain [--count 80000] [--size 400] [--rounds 3] [--at-least RATIO]
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.feeders import Bench, Replicator, tutorial
from benchmarks.servers import Servers, servers


def pile_up_and_drain(bench: Bench, process: subprocess.Popen, count: int, size: int) -> float:
    process.send_signal(signal.SIGSTOP)
    bench.insert(count, size)
    process.send_signal(signal.SIGCONT)
    return count / bench.wait_for_depth(count, 300)


def drain_tutorial(on: Servers, name: str, count: int, size: int) -> float:
    bench = Bench(on, name, is_durable=False)
    try:
        with tutorial(bench) as process:
            return pile_up_and_drain(bench, process, count, size)
    finally:
        bench.close()


def drain_replicator(on: Servers, name: str, count: int, size: int, directory: Path) -> float:
    bench = Bench(on, name, is_durable=True)
    try:
        with Replicator(bench, directory) as replicator:
            replicator.wait_until_ready()
            before = replicator.cpu_seconds()
            rate = pile_up_and_drain(bench, replicator.process, count, size)
            cpu, peak = replicator.cpu_seconds() - before, replicator.memory("VmHWM")
            print(f"  cpu {cpu:.2f} s, peak {peak:.0f} MB")
            return rate
    finally:
        bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=80_000)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-least", type=float, help="exit 1 below this ratio")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"tutorial": [], "replicator": []}
    with servers() as on, tempfile.TemporaryDirectory() as directory:
        for number in range(arguments.rounds):
            name = f"drain_{int(time.time())}_{number}"
            rates["tutorial"].append(
                drain_tutorial(on, f"{name}_t", arguments.count, arguments.size)
            )
            rates["replicator"].append(
                drain_replicator(on, f"{name}_r", arguments.count, arguments.size, Path(directory))
            )
            print({who: round(all_of[-1]) for who, all_of in rates.items()}, flush=True)
    medians = {who: statistics.median(all_of) for who, all_of in rates.items()}
    ratio = medians["replicator"] / medians["tutorial"]
    print(
        json.dumps(
            {
                "changes": arguments.count,
                "bytes": arguments.size,
                "rethinkdb": on.rethinkdb_kind,
                "messages_per_second": {who: round(rate) for who, rate in medians.items()},
                "ratio": round(ratio, 2),
            }
        )
    )
    if arguments.at_least is not None and ratio < arguments.at_least:
        sys.exit(f"the ratio {ratio:.2f} is below {arguments.at_least}")


if __name__ == "__main__":
    main()
