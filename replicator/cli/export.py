"""``replicator outbox export``: entries with everything needed to publish them elsewhere."""

import base64
from typing import Annotated, Final

from replicator.cli import naming, options, output
from replicator.cli.output import Facts
from replicator.composition import publication
from replicator.config import Settings
from replicator.domain.envelope import STRUCTURED
from replicator.domain.model import Entry, TableName
from replicator.domain.properties import (
    CONTENT_TYPE,
    STRUCTURED_TYPE,
    compact_headers,
    full_headers,
)
from replicator.operators import export
from replicator.operators.listing import EntryRow, Selection
from replicator.outbox.opening import open_database
from replicator.publisher.addresses import Addresses

_KEYS: Final = "id table key op origin state captured_at attempts reason last_error"


def export_entries(
    *,
    state: naming.OfState = None,
    table: naming.OfTable = None,
    key: naming.OfKey = None,
    limit: Annotated[int | None, options.limit("Export at most N entries.")] = None,
    after: naming.After = "0",
    _as_json: options.AsJson = True,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Write entries with their bodies, one JSON object a line, oldest first; changes nothing.

    Each has the exchange, the routing key, the properties and the body of its message. Give the
    command the settings of the service: the exchange and the routing key come from them.
    """
    settings = options.settings_from(config, {"outbox.url": outbox})
    database = open_database(settings.outbox.url)
    (first,) = naming.entry_numbers(database, [after])
    selection = Selection(state, table, key)
    count = 0
    with database.reading() as connection:
        for row, body in export.export_entries(connection, selection, after=first, limit=limit):
            output.print_line(_facts(row, body, settings))
            count += 1
    if not count:
        output.note(naming.NO_ENTRIES)


def _facts(row: EntryRow, body: bytes, settings: Settings) -> Facts:
    name = TableName(*row.table.split(".", 1))
    entry = Entry(row.id, row.feed_id, row.key, row.op, row.origin, body, row.captured_at)
    addresses = Addresses(publication(settings), settings.rabbitmq.exchange, {row.feed_id: name})
    exchange, routing_key = addresses.exchange_and_key(entry)
    return {
        **output.facts_of(row, _KEYS),
        "exchange": exchange,
        "routing_key": routing_key,
        "properties": _properties(row.message_id, entry, name, settings),
        **_body(body),
    }


def _properties(message_id: str, entry: Entry, name: TableName, settings: Settings) -> Facts:
    is_full = settings.rabbitmq.headers == "full"
    return {
        "content_type": STRUCTURED_TYPE if entry.body.startswith(STRUCTURED) else CONTENT_TYPE,
        "delivery_mode": 2 if settings.rabbitmq.persistent else 1,
        "type": entry.op,
        "message_id": message_id,
        "timestamp": entry.captured_at // 1_000_000,
        "headers": (full_headers(entry, name) if is_full else compact_headers(entry)) or {},
    }


def _body(body: bytes) -> Facts:
    """Return a body as text, which is byte for byte the same in UTF-8; else as base64."""
    try:
        return {"body": body.decode(), "body_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
