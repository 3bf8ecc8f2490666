"""A connection to the simulated broker, in the place of `publisher.link.Link`."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replicator.domain.model import Returned
from replicator.domain.properties import message_id
from replicator.errors import BrokerUnavailable, ChannelClosed, ReplicatorError

if TYPE_CHECKING:
    from tests.faults.pipeline.pipeline import Pipeline
    from tests.faults.pipeline.simulated_broker import BrokerConnection

FRAME_MAX = 128  # so small that a body has several frames
_CHANNEL = 1


class SimulatedLink:
    """Runs the rest of the scenario until it has ended, as the real one runs its loop."""

    host = "simulated"
    is_fenced = True

    def __init__(self, pipeline: "Pipeline", state: Any, events: Any) -> None:
        self._pipeline = pipeline
        self._state = state
        self._events = events
        self._error: ReplicatorError | None = None
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.connection: BrokerConnection | None = None
        self.is_over = False

    def run(self) -> None:
        broker = self._pipeline.broker
        if broker.connections and self.is_fenced:
            raise BrokerUnavailable("an earlier connection of this outbox is still open")
        self.connection = broker.accept()
        self._pipeline.link = self
        try:
            self._events.on_open(self, _CHANNEL, FRAME_MAX)
            if broker.is_blocked:
                self._state.blocked("low on memory")
            self._pipeline.play(until=lambda: self.is_over)
        finally:
            self._pipeline.link = None
            self.connection.is_client_gone = True
            self._state.ended()
        if self._error is not None:
            raise self._error

    # What the publisher calls.

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.call_later(0, callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        due_at = self._pipeline.clock.monotonic() + seconds
        self._calls.append((due_at, next(self._order), callback))

    def call_when_sent(self, callback: Callable[[], None]) -> None:
        self.call_later(0, callback)

    def write(self, frames: bytes) -> None:
        assert not self.is_over, "written to a connection that has ended"
        if self.connection is not None:
            self.connection.receive(frames)

    def hang_up(self, error: ReplicatorError | None = None) -> None:
        self._error = self._error or error
        self._state.ended()
        self.is_over = True

    # What the scenario does.

    def turn(self) -> None:
        """Run what is due by now, in the order in which it became due."""
        now = self._pipeline.clock.monotonic()
        due = sorted(call for call in self._calls if call[0] <= now)
        self._calls = [call for call in self._calls if call[0] > now]
        for _, _, callback in due:
            if not self.is_over:
                callback()

    def lose(self, share: float) -> None:
        """Lose the connection; a share of what is on the way still gets there."""
        if self.connection is not None:
            self.connection.cut(share)
        self.hang_up(BrokerUnavailable("the connection to RabbitMQ was lost: simulated"))

    def hear(self, count: int) -> None:
        """Read so many of the broker's replies, which come in together."""
        replies = self.connection.replies if self.connection is not None else ()
        for _ in range(min(count, len(replies))):
            if self.is_over:
                return
            kind, content = replies.popleft()
            if kind == "return":
                number, reply = content
                self._events.on_return(message_id("simulate", number), Returned(*reply))
            elif kind == "confirm":
                self._events.on_confirm(content)
            else:
                self._events.on_rejected(content[1])
                self.hang_up(ChannelClosed(f"RabbitMQ closed the channel: {content}"))
