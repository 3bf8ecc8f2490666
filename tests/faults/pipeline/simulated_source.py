"""A table of RethinkDB and its changefeed, as a server and the driver's cursor behave.

What is imitated, each as measured on a real server: initial values are read range by range and
mixed with live changes; a change of a range that was not read yet is left out; a queue that
overflows is dropped whole; an overflow during the snapshot is told late or never; an abort comes
before what is queued; changes are told before they are safe. The driver asks for the next
response when it reads one, so at most one is under way.
"""

import functools
from collections import deque
from dataclasses import dataclass
from typing import Any

from rethinkdb import errors as reql

from replicator.domain.feed_element import Change
from tests.faults.pipeline.clock import SimulatedClock
from tests.support.feed_elements import raw

KEYS = range(4)
BIG = 7  # the value of a document that is larger than the broker takes
_SHARDS = 2
_PADDING = "x" * 300


@functools.cache
def document(primary_key: str, key: int, value: int) -> Any:
    """Return the raw JSON of a document."""
    padding = {"pad": _PADDING} if value == BIG else {}
    return raw({primary_key: key, "v": value, **padding})


@dataclass
class Write:
    """One version of a document, or its deletion."""

    key: int
    value: int | None
    at: int
    is_seen: bool = False  # an entry or the index has it, committed
    is_discarded: bool = False  # its range was not read yet by the snapshot under way


class Tracked(Change, gc=False):
    """An element of a feed that remembers which write it tells of."""

    write: int = -1
    may_break_chain: bool = False


class SimulatedTable:
    """Documents with versions; at most one feed is open, as the replicator has it."""

    def __init__(self, clock: SimulatedClock, name: str) -> None:
        self.name = name
        self.clock = clock
        self.primary_key = "id"
        self.incarnation = 1
        self.current: dict[int, int] = {}  # key to its write
        self.history: list[Write] = []
        self.feed: SimulatedFeed | None = None
        self.is_there = True

    @property
    def table_id(self) -> str:
        """RethinkDB's own id: that of a table created again is another."""
        return f"T{self.incarnation}"

    @property
    def documents(self) -> dict[str, bytes]:
        """The table's content: raw documents by the text of their keys."""
        return {str(key): bytes(self.raw(number)) for key, number in self.current.items()}

    def raw(self, number: int | None) -> Any:
        write = None if number is None else self.history[number]
        if write is None or write.value is None:
            return raw(None)
        return document(self.primary_key, write.key, write.value)

    def write(self, key: int, value: int | None) -> None:
        """Write a document or delete it; a write that changes nothing is no event."""
        before = self.current.get(key)
        if (None if before is None else self.history[before].value) == value:
            return
        self.clock.advance(0.000_01)
        self.history.append(Write(key, value, self.clock.wall))
        number = len(self.history) - 1
        if value is None:
            del self.current[key]
        else:
            self.current[key] = number
        if self.feed is not None:
            kind = "add" if before is None else "remove" if value is None else "change"
            self.feed.emit(key, Tracked(self.raw(before), self.raw(number), kind, write=number))

    def fail_over(self, count: int) -> None:
        """Take the last writes back: they were told before a replica had them."""
        self.abort()
        latest = {write.key: place for place, write in enumerate(self.history)}
        for key in sorted(latest, key=latest.__getitem__, reverse=True)[:count]:
            versions = [write.value for write in self.history if write.key == key]
            self.write(key, versions[-2] if len(versions) > 1 else None)

    def drop(self) -> None:
        self.abort()
        for key in list(self.current):
            self.write(key, None)
        self.is_there = False

    def create(self, primary_key: str) -> None:
        self.is_there = True
        self.incarnation += 1
        self.primary_key = primary_key

    def abort(self) -> None:
        if self.feed is not None:
            self.feed.end(reql.ReqlOpFailedError("Changefeed aborted (unavailable)."))

    def disconnect(self) -> None:
        if self.feed is not None:
            self.feed.response = None
            self.feed.end(reql.ReqlDriverError("Connection is closed."))


class SimulatedFeed:
    """One open feed: the server's queue, the response under way, the driver's cursor."""

    def __init__(self, table: SimulatedTable, queue_size: int) -> None:
        self.table = table
        self.items: deque[Any] = deque()
        self.response: list[Any] | None = None
        self._queue: list[Tracked] = []
        self._queue_size = queue_size
        self._unread = [[k for k in KEYS if k % _SHARDS == shard] for shard in range(_SHARDS)]
        self._skipped = 0
        self._has_lost_silently = False
        self._told: set[int] = set()  # keys of which this feed has said something
        self._is_started = self._is_ready = self._must_confess = False
        self.error: Exception | None = None
        table.feed = self

    @property
    def is_idle(self) -> bool:
        """Whether everything was told and read."""
        return self._is_ready and not (self._queue or self.response or self.items or self._skipped)

    def emit(self, key: int, change: Tracked) -> None:
        if any(key in unread for unread in self._unread):
            self.table.history[change.write].is_discarded = True
            return
        # What came before it may have been dropped, which is told later; and a document that was
        # deleted before its range was read comes back without a word of the delete.
        change.may_break_chain = self._has_lost_silently or (
            change.type == "add" and key not in self._told
        )
        self._told.add(key)
        self._queue.append(change)
        if len(self._queue) > self._queue_size:
            self._skipped += len(self._queue)
            self._queue.clear()
            self._has_lost_silently = not self._is_ready

    def end(self, error: Exception) -> None:
        self._queue.clear()
        self.error = error
        self.table.feed = None

    def serve(self, limit: int, shard: int) -> None:
        """Let the server answer the driver's last question, if it has something to say."""
        if self.response is not None or self.error is not None:
            return
        elements: list[Any]
        if not self._is_started:
            self._is_started = True
            elements = [Change(state="initializing")]
        elif self._must_confess or (self._is_ready and self._skipped):
            elements = self._confess()
        else:
            elements = [*self._queue]
            self._queue.clear()
            if not self._is_ready:
                self._read_range(elements, limit, shard)
        self.response = elements or None

    def _confess(self) -> list[Any]:
        text = f"Changefeed cache over array size limit, skipped {self._skipped} elements."
        self._skipped = 0
        self._must_confess = False
        return [Change(error=text)]

    def _read_range(self, elements: list[Any], limit: int, shard: int) -> None:
        """Add initial values behind the changes of a response, and `ready` behind the last."""
        shards = [unread for unread in self._unread if unread]
        if shards:
            unread = shards[shard % len(shards)]
            keys = unread[:limit]
            del unread[:limit]
            for key in keys:
                number = self.table.current.get(key)
                if number is not None:
                    value = self.table.raw(number)
                    self._told.add(key)
                    elements.append(Tracked(new_val=value, type="initial", write=number))
            if any(self._unread):
                return
        if not self._skipped:
            self._is_ready = True
            elements.append(Change(state="ready"))
        elif not shards and elements:
            # Until something is written, neither `ready` nor an error comes after an overflow.
            self._must_confess = True

    # What the driver's cursor and connection do.

    def next(self, wait: float) -> Any:
        if not self.items:
            if self.response is None:
                if self.error is not None:
                    raise self.error
                self.table.clock.advance(wait)
                raise reql.ReqlTimeoutError("simulated", 28015)
            self._receive()
        return self.items.popleft()

    def _receive(self) -> None:
        self.items.extend(self.response or ())
        self.response = None

    def answer(self) -> None:
        """Answer a query; what the server had before it comes before the answer."""
        if self.error is not None:
            raise self.error
        self.serve(len(KEYS), 0)
        self._receive()


@dataclass
class SimulatedConnection:
    """The driver's connection that carries a feed."""

    feed: SimulatedFeed

    @property
    def kept_socket(self) -> "SimulatedConnection":
        return self

    def _start(self, *_term: object, **_options: object) -> tuple[bool, str]:
        """Do what the driver does for the `run` of a ping: whether it is empty, and which it is."""
        self.feed.answer()
        return True, self.feed.table.table_id

    def close(self, *, noreply_wait: bool = False) -> None:
        """Do nothing: the scenario says when a feed ends."""
