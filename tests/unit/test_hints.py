"""Every error that `replicator check` can meet says what to do, also those hard to come by."""

import ast
from pathlib import Path

import pytest

from replicator import errors

_PACKAGE = Path(errors.__file__).parent
_KINDS = {name for name, value in vars(errors).items() if isinstance(value, type)}
_REACHED = (
    "cli/check.py",
    "config/load.py",
    "outbox/sqlite/check.py",
    "outbox/sqlite/connection.py",
    "outbox/migrations.py",
    "outbox/records.py",
    "publisher/answers.py",
    "publisher/broker.py",
    "publisher/check.py",
    "publisher/topology.py",
    "source/check.py",
    "source/connection.py",
)


def _made_without_a_hint(source: str) -> list[str]:
    return [
        ast.unparse(call)
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in _KINDS
        and not any(keyword.arg == "hint" for keyword in call.keywords)
    ]


@pytest.mark.parametrize("file", _REACHED)
def test_every_error_is_made_with_a_hint(file: str) -> None:
    assert _made_without_a_hint((_PACKAGE / file).read_text()) == []


def test_an_error_without_one_would_be_seen() -> None:
    assert _made_without_a_hint("raise FeedAborted('gone')") == ["FeedAborted('gone')"]
