"""``replicator run``: the service."""

from typing import Annotated

import typer

from replicator.cli import options
from replicator.service import run_until_signalled

_LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
]
_LogFormat = Annotated[
    str | None, typer.Option("--log-format", metavar="FORMAT", help="auto, console or json.")
]


def run(  # noqa: PLR0913 -- an argument for each option
    *,
    table: options.Tables = None,
    rethinkdb: options.RethinkDBUrl = None,
    rabbitmq: options.RabbitMQUrl = None,
    exchange: options.Exchange = None,
    outbox: options.OutboxUrl = None,
    http: options.HttpListen = None,
    config: options.ConfigFile = None,
    log_level: _LogLevel = None,
    log_format: _LogFormat = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Flags win over the environment, that over the settings file, that over the defaults: both
    servers on this machine, and the outbox replicator.db in this directory.
    """
    flags = {
        "tables": table,
        "rethinkdb.url": rethinkdb,
        "rabbitmq.url": rabbitmq,
        "rabbitmq.exchange": exchange,
        "outbox.url": outbox,
        "http.listen": http,
        "log.level": log_level,
        "log.format": log_format,
    }
    run_until_signalled(options.settings_from(config, flags, require_tables=True))
