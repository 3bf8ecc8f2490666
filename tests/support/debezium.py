"""The schema of Debezium's change events, as its documentation describes them.

"Change event values" of the connectors' pages: an envelope of before, after, op, source, ts_ms and
transaction, in JSON without an embedded schema; its source has what all connectors share.
"""

from typing import Any, Final

_DOCUMENT: Final[dict[str, Any]] = {"type": ["object", "null"]}
_EMPTY: Final[dict[str, Any]] = {"type": "null"}
_FULL: Final[dict[str, Any]] = {"type": "object"}


def _when(op: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        "if": {"properties": {"op": {"const": op}}},
        "then": {"properties": {"before": before, "after": after}},
    }


SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["before", "after", "op", "source", "ts_ms", "transaction"],
    "additionalProperties": False,
    "properties": {
        "before": _DOCUMENT,
        "after": _DOCUMENT,
        "op": {"enum": ["c", "u", "d", "r"]},
        "ts_ms": {"type": "integer", "minimum": 0},
        "transaction": {"type": "null"},
        "source": {
            "type": "object",
            "required": ["version", "connector", "name", "ts_ms", "snapshot", "db", "table"],
            "properties": {
                "version": {"type": "string", "minLength": 1},
                "connector": {"type": "string", "minLength": 1},
                "name": {"type": "string", "minLength": 1},
                "ts_ms": {"type": "integer", "minimum": 0},
                "snapshot": {"enum": ["true", "false"]},
                "db": {"type": "string", "minLength": 1},
                "table": {"type": "string", "minLength": 1},
                "sequence": {"type": "string"},
            },
        },
    },
    "allOf": [
        _when("c", _EMPTY, _FULL),
        _when("r", _EMPTY, _FULL),
        _when("u", _DOCUMENT, _FULL),
        _when("d", _FULL, _EMPTY),
        {
            "if": {"properties": {"op": {"const": "r"}}},
            "then": {"properties": {"source": {"properties": {"snapshot": {"const": "true"}}}}},
            "else": {"properties": {"source": {"properties": {"snapshot": {"const": "false"}}}}},
        },
    ],
}
