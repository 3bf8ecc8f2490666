"""What the publisher's connection is like: for the status, the log and the metrics."""

from collections import deque
from collections.abc import Callable
from typing import Final

from replicator.log import get_logger
from replicator.metrics import Metrics

_MAX_REMEMBERED_ERRORS: Final = 16


class ConnectionState:
    """Open or not, blocked or not, since when, and why; the loop writes, any thread may read."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        """Start without a connection; ``clock`` gives seconds since the epoch."""
        self._metrics = metrics
        self._clock = clock
        self._log = get_logger("publisher")
        self._logged: deque[str] = deque(maxlen=_MAX_REMEMBERED_ERRORS)
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
        self._logged.clear()
        self.since = self._clock()
        self._metrics.connected.labels("rabbitmq").set(1)
        self._log.info("publishing", host=host, exchange=exchange)

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

    def failed(self, err: BaseException) -> None:
        """Take note of an error that is retried."""
        text = str(err)
        # Several hosts fail in turn, each in its own way: none of it is news the second time.
        if text not in self._logged:
            self._logged.append(text)
            self._log.warning(
                "rabbitmq is not available, retrying", error=text, hint=getattr(err, "hint", None)
            )
        self.error = text

    def _set_blocked(self, *, is_blocked: bool) -> None:
        self.is_blocked = is_blocked
        self.since = self._clock()
        self._metrics.broker_blocked.set(int(is_blocked))
