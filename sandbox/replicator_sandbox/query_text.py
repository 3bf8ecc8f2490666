"""The text of a changefeed's query, as ``rethinkdb.jobs`` shows it."""

import json
from typing import Any

_DATABASE, _TABLE, _GET, _CHANGES = 14, 15, 16, 152
_ARGUMENT_METHODS = {_GET: "get", 39: "filter", 78: "get_all", 182: "between", 33: "pluck"}


def query_text(item: Any) -> str:
    """Return ReQL for the terms of which changefeeds consist, "…" for others."""
    if not isinstance(item, list) or len(item) < 2 or not item[1]:
        return json.dumps(item) if not isinstance(item, list) else "…"
    number, arguments = item[0], item[1]
    if number == _DATABASE:
        return f"r.db({json.dumps(arguments[0])})"
    if number == _TABLE:
        parent = query_text(arguments[0]) if len(arguments) > 1 else "r"
        return f"{parent}.table({json.dumps(arguments[-1])})"
    if number == _CHANGES:
        options = json.dumps(item[2]) if len(item) > 2 and item[2] else ""
        return f"{query_text(arguments[0])}.changes({options})"
    if number in _ARGUMENT_METHODS:
        shown = ", ".join(query_text(argument) for argument in arguments[1:])
        return f"{query_text(arguments[0])}.{_ARGUMENT_METHODS[number]}({shown})"
    return "…"
