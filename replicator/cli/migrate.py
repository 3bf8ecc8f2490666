"""``replicator migrate``: bring an outbox's schema up to date."""

from replicator.cli import options, output
from replicator.operators import feeds


def migrate(
    *,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Bring the outbox's schema up to date; the service must not run on it.

    On SQLite `replicator run` does this by itself.
    """
    before, after = feeds.migrate(options.database_from(config, outbox))
    if as_json:
        output.print_object({"before": before, "after": after, "changed": before != after})
    elif before == after:
        output.say(f"the outbox has schema {after} already")
    else:
        output.say(f"the outbox was brought from schema {before or 'none'} to {after}")
