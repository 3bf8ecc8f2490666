"""Facts about where a run took place; nothing that names the machine or a place on it."""

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from rethinkdb import r

import replicator
from benchmarks import npm
from benchmarks.servers import Servers

_PACKAGES = ("rethinkdb", "pika", "msgspec", "SQLAlchemy")


def facts(servers: Servers) -> dict[str, Any]:
    """Return cores, memory, kernel and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30),
        "load_at_start": round(os.getloadavg()[0], 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "node": _node(),
        "rethinkdb": f"{_rethinkdb(servers)} ({servers.rethinkdb_kind})",
        "rabbitmq": servers.rabbitmq_version,
        "replicator": replicator.__version__,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "npm_packages": npm.PACKAGES if npm.node() else {},
    }


def _node() -> str | None:
    if npm.node() is None:
        return None
    return subprocess.run(
        ["node", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _rethinkdb(servers: Servers) -> str:
    connection = r.connect(host="127.0.0.1", port=servers.rethinkdb_port)
    try:
        status = r.db("rethinkdb").table("server_status").nth(0).run(connection)
        return status["process"]["version"].removeprefix("rethinkdb ")
    except r.errors.ReqlRuntimeError:
        return "unknown"
    finally:
        connection.close(noreply_wait=False)
