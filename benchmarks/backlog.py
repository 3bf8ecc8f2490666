"""How much memory does a backlog take while the broker is away, and how fast does it drain after?

Usage: python -m benchmarks.backlog [--count 300000] [--size 400] [--most-mb 150]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.feeders import Bench, Replicator
from benchmarks.servers import Servers, servers
from tests.support.proxy import TcpProxy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300_000)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--most-mb", type=float, help="exit 1 above this memory")
    arguments = parser.parse_args()
    with servers() as on, tempfile.TemporaryDirectory() as directory:
        port = int(on.rabbitmq_url.rpartition(":")[2].partition("/")[0])
        bench = Bench(on, f"backlog_{int(time.time())}", is_durable=True)
        with TcpProxy(port) as proxy:
            through = on.rabbitmq_url.replace(f":{port}", f":{proxy.port}")
            behind = Bench.__new__(Bench)
            behind.__dict__ = bench.__dict__ | {
                "servers": Servers(on.rethinkdb_url, through, on.rethinkdb_kind)
            }
            with Replicator(behind, Path(directory)) as replicator:
                replicator.wait_until_ready()
                idle = replicator.memory()
                proxy.refuse()
                proxy.cut()
                written = 0
                while written < arguments.count:
                    bench.insert(50_000, arguments.size, start=written)
                    written += 50_000
                    while replicator.status()["outbox"]["pending"] < written:
                        time.sleep(0.1)
                    print(f"  backlog {written}: {replicator.memory():.0f} MB", flush=True)
                backlogged = replicator.memory("VmHWM")
                proxy.heal()
                drained = written / bench.wait_for_depth(written, 300)
                peak = replicator.memory("VmHWM")
        bench.close()
    result = {
        "entries": written,
        "rethinkdb": on.rethinkdb_kind,
        "idle_mb": round(idle),
        "peak_with_backlog_mb": round(backlogged),
        "peak_after_drain_mb": round(peak),
        "drained_per_second_with_reconnect": round(drained),
    }
    print(json.dumps(result))
    if arguments.most_mb is not None and peak > arguments.most_mb:
        sys.exit(f"{peak:.0f} MB are more than {arguments.most_mb:.0f}")


if __name__ == "__main__":
    main()
