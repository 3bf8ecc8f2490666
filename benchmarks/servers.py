"""The servers of a benchmark: private ones on loopback, and what they have used."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from replicator_sandbox.server import EmbeddedRethinkDB

from tests.support.rethink import RealRethinkDB, find_rethinkdb


@dataclass(frozen=True)
class Servers:
    rethinkdb_url: str
    rethinkdb_kind: str
    rethinkdb_pid: int | None
    """None if it is not a process that we have started."""

    rabbitmq: PrivateRabbitMQ

    @property
    def rabbitmq_version(self) -> str:
        return ".".join(map(str, self.rabbitmq.version))

    @property
    def rethinkdb_port(self) -> int:
        return urlsplit(self.rethinkdb_url).port or 28015


@contextlib.contextmanager
def servers(rabbitmq_args: str = "") -> Iterator[Servers]:
    """Start them, RabbitMQ with more arguments of its Erlang VM; print which RethinkDB it is."""
    with contextlib.ExitStack() as stack:
        pid = None
        if given := os.environ.get("RETHINKDB_URL"):
            url, kind = given, "real, RETHINKDB_URL"
        elif find_rethinkdb():
            real = stack.enter_context(RealRethinkDB(cache_megabytes=1024))
            url, kind, pid = real.url, "real, private", real.pid
        else:
            url, kind = stack.enter_context(EmbeddedRethinkDB()).url, "embedded, not the real one"
        rabbitmq = stack.enter_context(PrivateRabbitMQ(erl_args=rabbitmq_args))
        found = Servers(url, kind, pid, rabbitmq)
        rabbitmq_kind = ", ".join(filter(None, ("real", "private", rabbitmq_args)))
        rabbitmq_kind = f"{found.rabbitmq_version}, {rabbitmq_kind}"
        print(f"servers: RethinkDB ({kind}), RabbitMQ ({rabbitmq_kind})", flush=True)
        yield found
