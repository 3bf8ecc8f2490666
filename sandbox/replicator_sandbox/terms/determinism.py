"""Which functions a server may run more than once: those without randomness or other reads."""

from typing import Any

_TABLE, _JAVASCRIPT, _HTTP, _RANDOM, _UUID = 15, 11, 153, 151, 169


def is_deterministic(item: Any) -> bool:
    """Return whether a term gives the same value whenever it is evaluated."""
    if isinstance(item, dict):
        return all(is_deterministic(value) for value in item.values())
    if not isinstance(item, list) or not item:
        return True
    arguments = item[1] if len(item) > 1 and isinstance(item[1], list) else []
    if item[0] in (_TABLE, _JAVASCRIPT, _HTTP, _RANDOM):
        return False
    if item[0] == _UUID and not arguments:
        return False
    options = item[2] if len(item) > 2 else {}
    return all(is_deterministic(value) for value in arguments) and is_deterministic(options)
