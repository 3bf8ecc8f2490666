"""``replicator run``: the service."""

from typing import Annotated

import typer

from replicator.cli import options
from replicator.errors import ReplicatorError
from replicator.log import get_logger, is_json
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
    try:
        run_until_signalled(options.settings_from(config, flags, require_tables=True))
    except Exception as err:
        if not is_json():
            raise  # the command line prints it for people
        raise typer.Exit(_log_end(err)) from err


def _log_end(err: Exception) -> int:
    """Log why the service ends, in the form of its other lines. Returns the exit status."""
    log = get_logger("service")
    if not isinstance(err, ReplicatorError):
        log.error("ended by a defect of the replicator", exc_info=err)
        return ReplicatorError.exit_status
    for problem in str(err).splitlines():
        log.error("ended by an error", error=problem, hint=err.hint)
    return err.exit_status
