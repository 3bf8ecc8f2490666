"""What does a restart over an unchanged table cost? It must publish nothing and write no index row.

Usage: python -m benchmarks.restart [--count 300000] [--size 400] [--at-least DOCUMENTS_PER_SECOND]
"""

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.feeders import Bench, Replicator
from benchmarks.servers import servers


def index_of(outbox: Path) -> tuple[int, int, int]:
    """Return rows, the sum of their ids and the last entry's number: what a write would change."""
    with sqlite3.connect(outbox) as database:
        rows, ids = database.execute("SELECT count(*), sum(id) FROM documents").fetchone()
        (last,) = database.execute("SELECT last_entry FROM meta").fetchone()
        return rows, ids, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300_000)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--at-least", type=float, help="exit 1 below this rate")
    arguments = parser.parse_args()
    with servers() as on, tempfile.TemporaryDirectory() as directory:
        bench = Bench(on, f"restart_{int(time.time())}", is_durable=True)
        bench.insert(arguments.count, arguments.size)
        replicator = Replicator(bench, Path(directory))
        with replicator:
            first = replicator.wait_until_ready(300)
            bench.wait_for_depth(arguments.count, 300)
        before, depth = index_of(replicator.outbox), bench.depth()
        with replicator:
            # Until ready includes the start of the process; the log's own times do not.
            seconds = replicator.wait_until_ready(300)
            compared = replicator.metric("replicator_snapshot_documents_total")
            published = bench.depth() - depth
            peak = replicator.memory("VmHWM")
        is_untouched = index_of(replicator.outbox) == before
        bench.close()
    rate = compared / seconds
    result = {
        "documents": int(compared),
        "rethinkdb": on.rethinkdb_kind,
        "first_snapshot_seconds": round(first, 2),
        "restart_seconds_with_process_start": round(seconds, 2),
        "documents_per_second": round(rate),
        "published": published,
        "index_untouched": is_untouched,
        "peak_memory_mb": round(peak),
    }
    print(json.dumps(result))
    if published or not is_untouched:
        sys.exit("a restart over an unchanged table changed something")
    if arguments.at_least is not None and rate < arguments.at_least:
        sys.exit(f"{rate:.0f} documents a second are below {arguments.at_least:.0f}")


if __name__ == "__main__":
    main()
