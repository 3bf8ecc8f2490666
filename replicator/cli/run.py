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
    settings = options.settings_from(
        config,
        require_tables=True,
        tables=table,
        rethinkdb__url=rethinkdb,
        rabbitmq__url=rabbitmq,
        rabbitmq__exchange=exchange,
        outbox__url=outbox,
        http__listen=http,
        log__level=log_level,
        log__format=log_format,
    )
    run_until_signalled(settings)
