"""``replicator migrate``: bring an outbox's schema up to date."""

from replicator.cli import options, output
from replicator.operators import feeds


def migrate(
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Bring the outbox's schema up to date. Stop the service first.

    With SQLite this is optional: `replicator run` does it at its start.
    """
    before, after = feeds.migrate(options.database_from(config, outbox))
    if as_json:
        output.print_object({"before": before, "after": after, "changed": before != after})
    elif before == after:
        output.say(f"the outbox already has schema {after}")
    else:
        output.say(f"the outbox was migrated from schema {before or 'none'} to {after}")
