# ruff: noqa: INP001 -- a script
"""Refuse, with status 1 and a line, a RabbitMQ of RABBITMQ_HOME that is older than a version.

Usage: RABBITMQ_HOME=DIRECTORY python tools/rabbitmq_version.py 4
"""

import subprocess
import sys

from replicator_sandbox.host import HOME, find_rabbitmq

from replicator.errors import ServerMissing


def complaint(least: int) -> str | None:
    """Return what is wrong with the RabbitMQ that would be used; None: it is new enough."""
    try:
        programs = find_rabbitmq()
    except ServerMissing as err:
        return str(err)
    if programs is None:
        return "there is no RabbitMQ here"
    # It asks no node.
    asked = subprocess.run(  # noqa: S603 -- a program of this machine
        [*programs.script("rabbitmqctl"), "version"], capture_output=True, text=True, check=False
    )
    version = asked.stdout.strip()
    if asked.returncode != 0:
        return f"{HOME}: rabbitmqctl version failed: {asked.stderr.strip()}"
    if int(version.partition(".")[0]) < least:
        return f"{HOME} is RabbitMQ {version}, and {least} or newer is to be tested"
    return None


if __name__ == "__main__":
    sys.exit(complaint(int(sys.argv[1])))
