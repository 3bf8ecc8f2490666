"""The options that commands share, and how they become settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from replicator.config import Settings, load_settings
from replicator.config.load import FLAGS
from replicator.errors import SettingsInvalid
from replicator.log import configure_logging, get_logger, redact_url
from replicator.outbox.opening import open_database
from replicator.outbox.port import Database

# Far more than anybody reads, and within what SQLite counts to.
_MAX_ROWS: Final = 2**31
_PUBLIC: Final = ":guest@"  # RabbitMQ's own default is not a secret
_URL_HELP: Final = (
    "A password given here can be seen by other users: use password_file or the environment."
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings file (TOML); default: $REPLICATOR_CONFIG."
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
        help="A table to replicate, or DB.* for a whole database; repeatable.",
    ),
]
RethinkDBUrl = Annotated[
    str | None,
    typer.Option("--rethinkdb", metavar="URL", help=f"rethinkdb://USER@HOST:PORT. {_URL_HELP}"),
]
RabbitMQUrl = Annotated[
    str | None,
    typer.Option("--rabbitmq", metavar="URL", help=f"amqp://USER@HOST:PORT/VHOST. {_URL_HELP}"),
]
Exchange = Annotated[
    str | None, typer.Option("--exchange", metavar="NAME", help="RabbitMQ's exchange.")
]
HttpListen = Annotated[
    str | None,
    typer.Option(
        "--http", metavar="HOST:PORT", help="Address of the status page and the metrics, or off."
    ),
]
IsDry = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
IsSure = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys, for programs.")]


def limit(text: str) -> Any:
    """Return the option for how many rows are shown."""
    return typer.Option("--limit", metavar="N", min=1, max=_MAX_ROWS, help=text)


def settings_from(
    config: Path | None, flags: Mapping[str, Any], *, require_tables: bool = False
) -> Settings:
    """Load the settings and configure logging; raises as `load_settings`, which has the rest."""
    try:
        settings = load_settings(config, flags, require_tables=require_tables)
    except SettingsInvalid as err:
        configure_logging(err.log_format)
        raise
    configure_logging(settings.log.format, settings.log.level)
    _warn_of_passwords(flags)
    return settings


def database_from(config: Path | None, outbox: str | None) -> Database:
    """Return the outbox that the settings, or ``--outbox``, name; nothing is opened yet.

    Raises:
        SettingsInvalid: One line for each problem.
        OutboxUnusable: there can be no outbox at this place.
    """
    return open_database(settings_from(config, {"outbox.url": outbox}).outbox.url)


def _warn_of_passwords(flags: Mapping[str, Any]) -> None:
    """Say once that a password came on the command line, and where it belongs.

    Every user of a host can read the arguments of every process.
    """
    shown = [
        FLAGS[key]
        for key, url in flags.items()
        if key.endswith(".url") and url and _PUBLIC not in url and redact_url(url) != url
    ]
    if shown:
        get_logger("settings").warning(
            "a password on the command line can be seen by other users of this host, "
            "and stays in the history of the shell",
            flags=shown,
            hint="use password_file, the environment or a settings file",
        )
