"""``replicator migrate``: bring an outbox's schema up to date."""

import typer

from replicator.cli import options, output
from replicator.operators.feeds import migrate as migrate_outbox


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("migrate", epilog="Example: replicator migrate --outbox sqlite:///replicator.db")(
        migrate
    )


def migrate(
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Bring the outbox's schema up to date; the service must not run on it.

    On SQLite `replicator run` does this by itself.
    """
    settings = options.settings_from(config, outbox__url=outbox)
    done = migrate_outbox(settings.outbox.url)
    if as_json:
        output.print_object(
            {"before": done.before, "after": done.after, "changed": done.before != done.after}
        )
    elif done.before == done.after:
        output.console().print(f"the outbox has schema {done.after} already")
    else:
        output.console().print(
            f"the outbox was brought from schema {done.before or 'none'} to {done.after}"
        )
