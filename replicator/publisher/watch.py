"""Notices a broker that is silent, or takes nothing: another connection may do better."""

from typing import Final

from replicator.retry import REFUSED

_NO_CONFIRM_SECONDS: Final = 300.0
# A channel of a cluster can stay behind after a node's death: RabbitMQ 3.10 then nacks whatever is
# published on it to a quorum queue that is well, for ever. A queue that is full nacks as well.
_REFUSED_SECONDS: Final = 15.0
_MAX_REFUSED_SECONDS: Final = 240.0


class BrokerWatch:
    """When RabbitMQ last answered, and since when it has only refused; instants are monotonic."""

    def __init__(self) -> None:
        """Begin; `begin` follows with each connection."""
        self._answered_at = 0.0
        self._refused_since: float | None = None
        self._patience_seconds = _REFUSED_SECONDS  # of all connections, until a message is taken

    def begin(self, now: float) -> None:
        """Take note that a connection is open, or that publishing goes on."""
        self._answered_at = now
        self._refused_since = None

    def confirmed(self, now: float) -> None:
        """Take note that RabbitMQ took messages."""
        self.begin(now)
        self._patience_seconds = _REFUSED_SECONDS

    def refused(self, now: float) -> None:
        """Take note that RabbitMQ did not take messages."""
        self._answered_at = now
        if self._refused_since is None:
            self._refused_since = now

    def reason_to_leave(self, now: float, *, in_flight: int) -> str | None:
        """Return why another connection, at the next host, may do better than this one."""
        refused_since = self._refused_since
        if (
            refused_since is not None
            and now - refused_since > self._patience_seconds
            # Refused again and again, not once and then never answered: that is the next case.
            and now - self._answered_at < 2 * REFUSED.max_seconds
        ):
            text = f"RabbitMQ has refused every message for {self._patience_seconds:.0f} seconds"
            # A new connection does not help against a full queue: try less and less often.
            self._patience_seconds = min(2 * self._patience_seconds, _MAX_REFUSED_SECONDS)
            return text
        if not in_flight:
            self._answered_at = now
        elif now - self._answered_at > _NO_CONFIRM_SECONDS:
            return f"RabbitMQ has confirmed nothing for {_NO_CONFIRM_SECONDS:.0f} seconds"
        return None
