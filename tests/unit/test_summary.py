"""``replicator status`` in words: whether the service is ready, and if not, what is not."""

from typing import Any

import pytest

from replicator.cli import summary

_OUTBOX = {"pending": 0, "parked": 0, "bytes": 0, "id": "abcdefgh", "full": False, "error": None}
_BROKER = {
    "connected": True,
    "blocked": False,
    "since": "2026-11-23T10:00:00Z",
    "in_flight": 0,
    "buffered": 0,
    "error": None,
}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"ready": True}, "running, ready"),
        (
            {"ready": False, "not_ready": [{"part": "outbox", "state": "unwritable"}]},
            "running, not ready (outbox unwritable)",
        ),
        (
            {
                "ready": False,
                "not_ready": [{"part": "broker", "state": "blocked"}],
                "degraded": "buffering",
            },
            "running, not ready: buffering (broker blocked)",
        ),
        (
            {
                "ready": False,
                "not_ready": [
                    {"part": "feed", "table": "shop.orders", "state": "lost"},
                    {"part": "outbox", "state": None},
                ],
            },
            "running, not ready (feed shop.orders lost, outbox)",
        ),
    ],
)
def test_the_service_line_has_a_reason_and_nothing_empty(facts: dict[str, Any], words: str) -> None:
    line, *_ = summary.lines({"version": "1", "outbox": _OUTBOX, "broker": _BROKER, **facts})

    assert line.plain == f"replicator 1, {words}"
