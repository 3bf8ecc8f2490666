"""A gap never begins too late: the reader over the real driver, against a simulated server."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rethinkdb import r

from replicator.domain.items import FeedBatch, FeedClosed, FeedItem, SnapshotRead
from replicator.domain.model import TableName
from replicator.errors import FeedLost
from replicator.metrics import Metrics
from replicator.source import reader as reader_module
from replicator.source.changefeed import Changefeed, _Decoder
from replicator.source.reader import FeedReader
from replicator.source.watchdog import Watch
from tests.support.driver import (
    ABORTED,
    ATOM,
    CONTINUE,
    PARTIAL,
    SimulatedSocket,
    connection_over,
)

NAME = TableName("db", "t")
SMALL, RESPONSE, QUEUE = 3, 4, 12  # changes: what counts as small, and what the server's limits are
METRICS = Metrics()
TIMES = [1, 1, 1, 1, 50_000, 900_000, 30_000_000]  # the process, or the network, may stand still


class World:
    """A server with one feed, and what happens while the reader is at it; any order is possible.

    What it keeps to: a response has all that is queued, up to a limit; what was queued when a ping
    arrived is sent before its answer, if the driver had asked for more; all comes in order.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1_000_000_000
        self.socket = SimulatedSocket()
        self.socket.sent = self._take_request  # type: ignore[method-assign]
        self.socket.wait = self._wait  # type: ignore[method-assign]
        self.unread: dict[int, int] = {}  # the instant of each change that was not handed over
        self.proved: list[int] = []
        self._written = 0
        self._queue: list[int] = []
        self._skipped = 0
        self._is_ready = self._is_asked = False
        self._feed_token: int | None = None
        self._ping_token: int | None = None
        self._busy = self.random.choice([0.02, 0.1, 0.2, 0.4])
        self._turns = self.random.randrange(10, 100)

    def now_us(self) -> int:
        self._pass_time()
        return self.now

    def _pass_time(self) -> None:
        self.now += self.random.choice(TIMES)

    def _live(self) -> None:
        """Let anything happen that does not depend on the reader."""
        for _ in range(self.random.choice([0, 0, 1, 1, 2, 8])):
            self._pass_time()
            if self.random.random() < self._busy:
                self._write()
            else:
                self._serve()

    def _write(self) -> None:
        if self._feed_token is None:
            return
        self._written += 1
        self.unread[self._written] = self.now
        self._queue.append(self._written)
        # During a snapshot an overflow is silent: nothing read before `ready` is trusted.
        if self._is_ready and len(self._queue) > QUEUE:
            self._skipped += len(self._queue)
            self._queue.clear()

    def _serve(self) -> None:
        if not self._is_asked or self._feed_token is None:
            return
        elements: list[Any] = []
        if self._skipped:
            elements = [{"error": f"over the limit, skipped {self._skipped} elements."}]
            self._skipped = 0
        else:
            taken, self._queue = self._queue[:RESPONSE], self._queue[RESPONSE:]
            elements = [{"new_val": number, "type": "add"} for number in taken]
            if not self._is_ready and self.random.random() < 0.5:
                self._is_ready = True
                elements.insert(self.random.randint(0, len(elements)), {"state": "ready"})
        if elements:
            self._is_asked = False
            self.socket.respond(self._feed_token, PARTIAL, elements)

    def _take_request(self, kind: int, token: int) -> None:
        self._pass_time()
        if kind == CONTINUE:
            assert not self._is_asked
            self._is_asked = True
        elif self._feed_token is None:
            self._feed_token = token
            first = self.random.choice([[], [{"state": "initializing"}]])
            self.socket.respond(token, PARTIAL, first)
        else:
            self._ping_token = token
            if self.random.random() < 0.05:
                self._turns = -1
                self._end()
            self._serve()
            if self.random.random() < 0.5:
                self._answer()
        self._live()

    def _answer(self) -> None:
        if self._ping_token is not None:
            self.socket.respond(self._ping_token, ATOM, [[False, Changefeed.table_id]])
            self._ping_token = None

    def _wait(self) -> bool:
        self._live()
        self._turns -= 1
        if self._turns < 0:
            self._end()
        elif self._ping_token is not None:
            if self.random.random() < 0.5:
                self._answer()
        elif self.random.random() < 0.5:
            return False
        return True

    def _end(self) -> None:
        """Abort the feed, without what is queued; or let the connection be lost."""
        if self._feed_token is None or not self._is_asked or self.random.random() < 0.3:
            self.socket.close()
            return
        self._is_asked = False
        self.socket.respond(self._feed_token, ABORTED, ["Changefeed aborted."])
        self._answer()

    # The reader's door to the store.

    def put(self, item: FeedItem) -> bool:
        self._live()
        if isinstance(item, FeedBatch):
            for change in item.changes:
                del self.unread[int(bytes(change.new_val))]
        if isinstance(item, FeedBatch | SnapshotRead | FeedClosed):
            self.require(item.complete_at)
        self._live()
        return True

    def require(self, complete_at: int) -> None:
        self.proved.append(complete_at)
        oldest = min(self.unread.values(), default=self.now + 1)
        assert complete_at < oldest, "a gap would begin too late"

    def open(self, _queue_size: int) -> Changefeed:
        connection = connection_over(self.socket)
        connection.kept_socket = SimpleNamespace(close=lambda: None)
        query = r.db("db").table("t").changes()
        cursor = query.run(connection, json_decoder=_Decoder)
        return Changefeed(connection, cursor, Watch(), NAME)


def follow(seed: int) -> World:
    world = World(seed)
    with pytest.MonkeyPatch.context() as patch:
        clock = SimpleNamespace(monotonic=lambda: world.now / 1e6)
        patch.setattr(reader_module, "time", clock)
        patch.setattr(reader_module, "now_us", world.now_us)
        patch.setattr(reader_module, "_SMALL_BATCH", SMALL)
        patch.setattr(reader_module, "_PING_AFTER_SECONDS", 2.0)
        reader = FeedReader(1, NAME, world.open, world, METRICS)
        reader._log = SimpleNamespace(info=lambda *_a, **_k: None)  # type: ignore[assignment]
        with pytest.raises(FeedLost):
            reader._follow()
        world.require(reader.complete_at)
    return world


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_nothing_that_is_unread_happened_before_the_instant_that_a_gap_would_begin_at(
    seed: int,
) -> None:
    follow(seed)


def test_it_advances_while_the_feed_is_read() -> None:
    advances = [len(set(follow(seed).proved)) for seed in range(200)]

    assert sum(advances) > 2 * len(advances)
