"""What the publisher's connection is like: for the status, the log and the metrics."""

from collections.abc import Callable

from replicator.errors import ReplicatorError
from replicator.log import WarnOnce, get_logger
from replicator.metrics import Metrics


class ConnectionState:
    """Open or not, blocked or not, since when, and why; the loop writes, any thread may read."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        """Start without a connection; ``clock`` gives seconds since the epoch."""
        self._metrics = metrics
        self._clock = clock
        self._log = get_logger("publisher")
        self._told: set[str] = set()
        self._failures = WarnOnce(self._log, "rabbitmq is not available, retrying")
        self.is_open = False
        self.was_open = False
        self.is_blocked = False
        self.error: str | None = None
        self.since = clock()

    @property
    def may_publish(self) -> bool:
        """Whether the channel is open and RabbitMQ takes messages."""
        return self.is_open and not self.is_blocked

    def opened(self, host: str, exchange: str) -> None:
        """Take note that the channel confirms from now on."""
        if self.was_open:
            self._metrics.reconnects.labels("rabbitmq").inc()
        self.is_open = self.was_open = True
        self.error = None
        self._failures.forget()
        self.since = self._clock()
        self._metrics.connected.labels("rabbitmq").set(1)
        self._log.info("publishing", host=host, exchange=exchange)

    def uses(self, difference: str) -> None:
        """Take note of what exists and is not as the settings would make it; said once."""
        if difference not in self._told:
            self._told.add(difference)
            self._log.warning("something is there and is not as the settings say", used=difference)

    def blocked(self, reason: str) -> None:
        """Take note that RabbitMQ takes no messages now."""
        self._set_blocked(is_blocked=True)
        self._log.warning(
            "rabbitmq blocks publishers, changes are kept in the outbox", reason=reason
        )

    def unblocked(self) -> None:
        """Take note that RabbitMQ takes messages again."""
        self._set_blocked(is_blocked=False)
        self._log.info("rabbitmq takes messages again")

    def ended(self) -> None:
        """Take note that nothing can be written any more; safe to repeat."""
        if self.is_open:
            self.since = self._clock()
        self.is_open = self.is_blocked = False
        self._metrics.connected.labels("rabbitmq").set(0)
        self._metrics.broker_blocked.set(0)

    def failed(self, err: ReplicatorError) -> None:
        """Take note of an error that is retried."""
        self._failures.warn(err)
        self.error = str(err)

    def _set_blocked(self, *, is_blocked: bool) -> None:
        self.is_blocked = is_blocked
        self.since = self._clock()
        self._metrics.broker_blocked.set(int(is_blocked))
