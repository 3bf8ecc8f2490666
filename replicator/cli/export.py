"""``replicator outbox export``: everything that is needed to publish the entries elsewhere."""

import base64
from typing import Annotated, Any, Final

import msgspec
import typer

from replicator.cli import options, output
from replicator.cli.naming import OfState, OfTable, entry_numbers
from replicator.config import Settings
from replicator.domain.envelope import STRUCTURED
from replicator.domain.model import Entry, TableName, of_table
from replicator.domain.properties import (
    CONTENT_TYPE,
    STRUCTURED_TYPE,
    compact_headers,
    full_headers,
)
from replicator.domain.routing import RoutingKey
from replicator.operators import export
from replicator.operators import listing as inspect
from replicator.operators.export import Exported
from replicator.operators.listing import Selection

_DEFAULT_ROUTING_KEY: Final = RoutingKey("{table}.{op}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("export", epilog="Example: replicator outbox export --state parked > parked.jsonl")(
        export_entries
    )


def export_entries(
    *,
    state: OfState = None,
    table: OfTable = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Only this document: its primary key."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=options.MOST_ROWS, help="At most so many.")
    ] = None,
    after: options.AfterEntry = "0",
    _as_json: options.AsJson = True,
    config: options.ConfigFile = None,
    outbox: options.OutboxUrl = None,
) -> None:
    """Write entries whole, a JSON object a line, oldest first.

    Each has the exchange, the routing key, the properties and the body of its message, as this
    command's settings say. Give it the settings of the service. It changes nothing.
    """
    settings = options.settings_from(config, outbox__url=outbox)
    (behind,) = entry_numbers(settings.outbox.url, [after])
    selection = Selection(state.value if state else None, table, key)
    with inspect.reading(settings.outbox.url) as connection:
        for each in export.export_entries(connection, selection, after=behind, limit=limit):
            output.print_line(_facts(each, settings))


def _facts(each: Exported, settings: Settings) -> dict[str, Any]:
    row, entry = each
    name = TableName(*row.table.split(".", 1))
    templates = {table.full_name: table.routing_key for table in settings.tables}
    exchanges = settings.exchange_by_table
    template = of_table(templates, name) or _DEFAULT_ROUTING_KEY
    return {
        "id": row.id,
        "table": row.table,
        "key": msgspec.Raw(row.key.encode()),
        "op": row.op,
        "origin": row.origin,
        "state": row.state,
        "captured_at": output.instant(row.captured_at),
        "attempts": row.attempts,
        "reason": row.reason,
        "last_error": row.last_error,
        "exchange": of_table(exchanges, name) or settings.rabbitmq.exchange,
        "routing_key": template.format(name.database, name.table, row.op),
        "properties": _properties(row.message_id, entry, name, settings),
        **_body(entry.body),
    }


def _properties(message_id: str, entry: Entry, name: TableName, settings: Settings) -> Any:
    is_full = settings.rabbitmq.headers == "full"
    return {
        "content_type": STRUCTURED_TYPE if entry.body.startswith(STRUCTURED) else CONTENT_TYPE,
        "delivery_mode": 2 if settings.rabbitmq.persistent else 1,
        "type": entry.op.value,
        "message_id": message_id,
        "timestamp": entry.captured_at // 1_000_000,
        "headers": (full_headers(entry, name) if is_full else compact_headers(entry)) or {},
    }


def _body(body: bytes) -> dict[str, str]:
    """Return a body as text, byte for byte the same in UTF-8; what is no text as base64."""
    try:
        return {"body": body.decode(), "body_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
