"""A fake service, for tests of what the HTTP server shows."""

from typing import Any

from replicator.web.troubles import Signs, find_troubles


def feed_of(table: str, state: str = "ready", **changed: Any) -> dict[str, Any]:
    """Return the facts of a feed."""
    return {
        "table": table,
        "state": state,
        "since": "2026-11-23T10:00:00.000Z",
        "ready_at": None,
        "changed_at": "2026-11-23T10:05:00.000Z",
        "captured": 1234,
        "snapshot_documents": 10,
        "skipped": 0,
        "gap": None,
        "last_error": None,
        "last_error_at": None,
        **changed,
    }


class FakeService:
    """A service whose state the test sets; at first all is well."""

    def __init__(self) -> None:
        self.is_live = self.is_ready = True
        self.feeds = [feed_of("shop.orders")]
        self.outbox: dict[str, Any] = {
            "id": "abcd2345",
            "pending": 0,
            "parked": 0,
            "bytes": 0,
            "oldest_entry_age_seconds": 0.0,
            "max_entries": 1000,
            "max_bytes": 1_000_000,
            "full": False,
            "error": None,
        }
        self.broker: dict[str, Any] | None = {
            "connected": True,
            "blocked": False,
            "since": "2026-11-23T10:00:00.000Z",
            "in_flight": 0,
            "buffered": 0,
            "refused": 0,
            "confirmed": 0,
            "unroutable": {},
            "exchange": "rethinkdb",
            "error": None,
        }
        self.changed: dict[str, Any] = {}
        self.signs = Signs()
        self.pending: list[int] = [0, 0, 0]
        self.samples = 0
        self.metrics = b"replicator_in_flight 0\n"

    def liveness(self) -> dict[str, Any]:
        return {"live": self.is_live, "stuck": []}

    def readiness(self) -> dict[str, Any]:
        facts = {"ready": self.is_ready}
        return facts if self.is_ready else {**facts, "not_ready": ["feed"]}

    def facts(self) -> dict[str, Any]:
        facts = {
            "version": "1.0",
            "running": True,
            "ready": self.is_ready,
            "outbox": dict(self.outbox),
            "feeds": list(self.feeds),
            "broker": self.broker and dict(self.broker),
            **self.changed,
        }
        troubles = find_troubles(facts, self.signs)
        return {**facts, "troubles": [each._asdict() for each in troubles]}

    def history(self) -> dict[str, Any]:
        count = len(self.pending)
        rate = {"captured_per_second": 12.5, "confirmed_per_second": 0.25}
        return {
            "interval_seconds": 10.0,
            "at": ["2026-11-23T10:00:00.000Z"] * count,
            "age_seconds": [10.0 * (count - 1 - position) for position in range(count)],
            "pending": list(self.pending),
            "oldest_entry_age_seconds": [each / 42 for each in self.pending],
            "rates": {
                "seconds": 60.0,
                "tables": {str(each["table"]): rate for each in self.feeds if not each["gap"]},
            },
        }

    def sample(self) -> None:
        self.samples += 1

    def render_metrics(self) -> bytes:
        return self.metrics
