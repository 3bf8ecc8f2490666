"""The servers of a benchmark: private ones on loopback, or those that the environment names."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from replicator.sandbox.rabbitmq import PrivateRabbitMQ
from replicator.sandbox.server import EmbeddedRethinkDB
from tests.support.rethink import RealRethinkDB, find_rethinkdb


class Servers(NamedTuple):
    rethinkdb_url: str
    rabbitmq_url: str
    rethinkdb_kind: str


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        if given := os.environ.get("RETHINKDB_URL"):
            rethinkdb_url, kind = given, "RETHINKDB_URL"
        elif find_rethinkdb():
            rethinkdb_url = stack.enter_context(RealRethinkDB(cache_megabytes=1024)).url
            kind = "real"
        else:
            rethinkdb_url = stack.enter_context(EmbeddedRethinkDB()).url
            kind = "embedded"
        rabbitmq_url = os.environ.get("RABBITMQ_URL")
        if rabbitmq_url is None:
            rabbitmq_url = stack.enter_context(PrivateRabbitMQ()).url
        print(f"servers: RethinkDB ({kind}), RabbitMQ")
        yield Servers(rethinkdb_url, rabbitmq_url, kind)
