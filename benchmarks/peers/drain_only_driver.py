"""Read a changefeed with RethinkDB's driver as it is, and do nothing with it.

Prints ``done`` when it has read COUNT documents, then stays until standard input ends, so that its
memory and CPU time can be read.
Usage: drain_only_driver.py RETHINKDB_PORT DATABASE TABLE COUNT
"""

import sys
from itertools import islice

from rethinkdb import r

port, database, table, count = sys.argv[1:]
connection = r.connect(host="127.0.0.1", port=int(port))
changes = r.db(database).table(table).changes(include_initial=True).run(connection)
print("ready", flush=True)
seen = sum(1 for _change in islice(changes, int(count)))
print("done", flush=True)
sys.stdin.read()
