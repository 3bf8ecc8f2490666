"""The server without its sockets: its state, and the system tables that show it."""

from collections.abc import Callable

from replicator_sandbox.state import ServerState
from replicator_sandbox.system_tables import SystemTables


class Engine(ServerState):
    """Everything that queries work on; used from one thread only."""

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        """Start empty; ``schedule`` runs a callable soon, after the current query."""
        super().__init__(self._changed)
        self._schedule = schedule
        self._is_refresh_due = False
        self.system = SystemTables(self)

    def _changed(self) -> None:
        if not self._is_refresh_due:
            self._is_refresh_due = True
            self._schedule(self._refresh)

    def _refresh(self) -> None:
        self._is_refresh_due = False
        self.system.refresh("event")
