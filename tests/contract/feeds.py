"""Reading changefeeds in tests."""

from collections.abc import Callable
from typing import Any

import pytest
from rethinkdb.errors import ReqlTimeoutError

Element = dict[str, Any]
EVERYTHING = {"include_initial": True, "include_states": True, "include_types": True}


def is_ready(element: Element) -> bool:
    return element.get("state") == "ready"


def take_until(
    cursor: Any, is_last: Callable[[Element], bool], seconds: float = 15
) -> list[Element]:
    """Return the elements up to and with the first that satisfies ``is_last``."""
    elements = []
    while True:
        elements.append(cursor.next(wait=seconds))
        if is_last(elements[-1]):
            return elements


def take(cursor: Any, count: int, seconds: float = 15) -> list[Element]:
    """Return the next ``count`` elements."""
    return [cursor.next(wait=seconds) for _ in range(count)]


def assert_silent(cursor: Any, seconds: float = 0.4) -> None:
    """Fail if the feed has anything to say within that time."""
    with pytest.raises(ReqlTimeoutError):
        cursor.next(wait=seconds)
