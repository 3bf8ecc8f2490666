"""The options that commands share, and the settings that they lead to."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from replicator.cli.arguments import warn_of_passwords
from replicator.config import Settings, load_settings
from replicator.log import configure_logging

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings file (TOML); REPLICATOR_CONFIG names it too."
    ),
]
OutboxUrl = Annotated[
    str | None,
    typer.Option("--outbox", metavar="URL", help="The outbox, such as sqlite:///replicator.db."),
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="DB.TABLE",
        help="A table to replicate, or DB.* for all of a database; repeatable.",
    ),
]
RethinkDBUrl = Annotated[
    str | None,
    typer.Option("--rethinkdb", metavar="URL", help="rethinkdb://USER:PASSWORD@HOST:PORT"),
]
RabbitMQUrl = Annotated[
    str | None,
    typer.Option("--rabbitmq", metavar="URL", help="amqp://USER:PASSWORD@HOST:PORT/VHOST"),
]
Exchange = Annotated[
    str | None, typer.Option("--exchange", metavar="NAME", help="The exchange to publish to.")
]
HttpListen = Annotated[
    str | None,
    typer.Option("--http", metavar="HOST:PORT", help="Address of status and metrics; or off."),
]
MOST_ROWS: Final = 2**31
"""The highest limit of a list: far more than anybody reads, and within what SQLite counts to."""
AfterEntry = Annotated[
    str, typer.Option("--after", metavar="ID", help="Only those behind this entry.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON with stable keys.")]


def settings_from(config: Path | None, *, require_tables: bool = False, **flags: Any) -> Settings:
    """Find all settings and send logs where they say.

    Args:
        config: the settings file.
        require_tables: whether the command needs to know what is replicated.
        flags: values from the command line by dotted key, with ``__`` for the dot.

    Raises:
        SettingsInvalid: one line for each problem.
    """
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    settings = load_settings(config, dotted, require_tables=require_tables)
    configure_logging(settings.log.format, settings.log.level)
    warn_of_passwords(settings, dotted)
    return settings
