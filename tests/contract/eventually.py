"""Waiting for a server to apply what it has acknowledged.

A real server spreads users and permissions to its threads after it has answered the write.
"""

from collections.abc import Callable
from typing import Any

from rethinkdb.errors import ReqlAuthError, ReqlPermissionError

from tests.support.wait import wait_until


def allowed(action: Callable[[], Any]) -> Any:
    """Return what ``action`` returns as soon as it is permitted."""
    results: list[Any] = []

    def is_permitted() -> bool:
        try:
            results.append(action())
        except (ReqlPermissionError, ReqlAuthError):
            return False
        return True

    wait_until(is_permitted, what="the permission")
    return results[0]


def denied(action: Callable[[], Any]) -> str:
    """Return the text of the refusal as soon as ``action`` is refused."""

    def refusal() -> str:
        try:
            action()
        except (ReqlPermissionError, ReqlAuthError) as err:
            return str(err)
        return ""

    return wait_until(refusal, what="the refusal")
