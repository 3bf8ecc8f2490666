# ruff: noqa: INP001, T201 -- a script, run by compose.yaml
"""Make the tutorial's table where it is missing; safe to repeat.

Usage: table.py [HOST [PORT]]. Waits up to two minutes for RethinkDB.
Exit status: 0 the table is there, 1 RethinkDB did not answer in time.
"""

import sys
import time
from typing import Any, Final

from rethinkdb import errors, r

_PATIENCE_SECONDS: Final = 120.0
_DATABASE: Final = "change_example"
_TABLE: Final = "mytable"


def _connect(host: str, port: int) -> Any:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return r.connect(host=host, port=port, timeout=5)
        except errors.ReqlDriverError as err:
            if time.monotonic() > deadline:
                sys.exit(f"RethinkDB at {host}:{port} does not answer: {err}")
        time.sleep(1)


def main(host: str = "rethinkdb", port: str = "28015") -> None:
    """Make database and table, and wait until the table can be read."""
    connection = _connect(host, int(port))
    if _DATABASE not in r.db_list().run(connection):
        r.db_create(_DATABASE).run(connection)
    if _TABLE not in r.db(_DATABASE).table_list().run(connection):
        r.db(_DATABASE).table_create(_TABLE).run(connection)
    r.db(_DATABASE).table(_TABLE).wait().run(connection)
    connection.close()
    print(f"{_DATABASE}.{_TABLE} is there")


if __name__ == "__main__":
    main(*sys.argv[1:])
