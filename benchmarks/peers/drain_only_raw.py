"""Read a changefeed with this project's connection, nothing else: the limit for any reader.

It leaves values undecoded. Prints ``done`` when it has read COUNT documents, then stays until
standard input ends, so that its memory and CPU time can be read.
Usage: drain_only_raw.py RETHINKDB_PORT DATABASE TABLE COUNT
"""

import sys

from replicator.domain.model import TableName
from replicator.source.changefeed import FieldRules, open_changefeed
from replicator.source.connection import Server
from replicator.source.watchdog import Watch

port, database, table, count = sys.argv[1:]
server = Server([("127.0.0.1", int(port))], "admin", "")
name = TableName(database, table)
with open_changefeed(server, name, FieldRules(), queue_size=100_000, watch=Watch()) as changefeed:
    print("ready", flush=True)
    seen = 0
    while seen < int(count):
        seen += sum(1 for change in changefeed.read(1.0) if change.new_val)
    print("done", flush=True)
    sys.stdin.read()
