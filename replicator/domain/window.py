"""The window of unconfirmed messages: what may be published now, and what confirms settle.

This is where promise G3 is kept. At most one entry of a document is in flight: the next one
waits until RabbitMQ has confirmed the one before. So a nack or a return can never let a later
entry overtake, and the first deliveries of a document are in order whatever the broker refuses.
(docs/adr/0002 says what that costs and why a pipelined document cannot keep the promise.)

Each document has a queue of its entries in the order of their numbers. The first one is

    ready ──take──▶ in flight ──confirm──▶ settled: the next of the document is ready
      ▲               │    └─ returned ──▶ settled, or parked by the caller
      └── due ── refused ◀─ nack, or returned and held

Entries come in readings. A reading is one pass over the pending entries of the outbox, from the
oldest on. `forget` begins a new one: what operators did to the outbox in between is in it, in its
place. What is in flight by then is an orphan until it is offered again: it is not sent a second
time while its answer is awaited, and when it is refused, the outbox decides what becomes of it.

Pure: the caller says what the time is; delivery tags are counted here as RabbitMQ counts them.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from replicator.domain.model import Entry, Returned

Document = tuple[int, str]
"""A document: its feed and its key."""

_NUMBER: Final = attrgetter("number")


class WindowLimits(NamedTuple):
    """How much may be unconfirmed, and how much may wait in memory."""

    in_flight: int
    in_flight_bytes: int
    buffered: int
    buffered_bytes: int


class Confirmed(msgspec.Struct, frozen=True, gc=False):
    """An entry that RabbitMQ took responsibility for, or handed back before its ack."""

    entry: Entry
    sent_at: float  # seconds, the caller's clock
    returned: Returned | None


class Window:
    """Order, limits and retries of what is published; not thread-safe."""

    def __init__(self, limits: WindowLimits, *, backoff: Callable[[int], float]) -> None:
        """Start empty, in the first reading.

        Args:
            limits: bounds in entries and bytes; one entry larger than a byte limit still goes.
            backoff: seconds to wait before attempt ``n`` (1 is the first retry) of an entry.
        """
        self._limits = limits
        self._backoff = backoff
        self._documents: dict[Document, list[Entry]] = {}
        self._ready: deque[Entry] = deque()
        self._refused: list[tuple[float, int, Entry]] = []  # a heap, by when they are due
        self._in_flight: dict[int, tuple[Entry, float]] = {}  # by delivery tag, and when sent
        self._returned: dict[int, Returned] = {}
        self._attempts: dict[int, int] = {}
        # Numbers that were in flight when this reading began, and are not to be taken from it.
        self._orphans: set[int] = set()
        self._next_tag = 1
        self._count = 0
        self._bytes = 0
        self._bytes_in_flight = 0
        self.reading = 1
        """Which reading is taken in; only grows."""
        self.cap: int | None = None
        """A smaller limit of messages in flight, while the publisher looks for a poison entry."""

    @property
    def in_flight(self) -> int:
        """Messages published and not yet confirmed."""
        return len(self._in_flight)

    @property
    def buffered(self) -> int:
        """Entries in memory that are not in flight."""
        return self._count - len(self._in_flight)

    @property
    def refused(self) -> int:
        """Entries that were nacked, or returned and held, and are to be tried again."""
        return len(self._attempts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to publish or to confirm."""
        return not self._count

    def room_beside(self, count: int, size: int) -> int:
        """Return how many entries may be offered while ``count`` of ``size`` bytes wait outside."""
        if self._bytes - self._bytes_in_flight + size >= self._limits.buffered_bytes:
            return 0
        return max(0, self._limits.buffered - self.buffered - count)

    def attempts(self, number: int) -> int:
        """Return how often this entry was refused since it came into memory."""
        return self._attempts.get(number, 0)

    def offer(self, entries: Iterable[Entry], reading: int) -> bool:
        """Add entries of a reading, in the order of their numbers, each once in a reading.

        Returns whether they are of the present reading. Others are dropped: taken among those of
        this one, they could go before older entries that are still to be offered.
        """
        if reading != self.reading:
            return False
        for entry in entries:
            if entry.number in self._orphans:
                self._orphans.discard(entry.number)
                continue
            document = (entry.feed_id, entry.key)
            queue = self._documents.get(document)
            if queue is None:
                self._documents[document] = [entry]
                self._ready.append(entry)
            else:
                # Order matters: sent now, this entry could arrive although the one before it is
                # refused, and a consumer would see the older state last.
                queue.append(entry)
            self._count += 1
            self._bytes += len(entry.body)
        return True

    def take(self, now: float) -> list[Entry]:
        """Return the entries to publish now, in order, and count them as in flight.

        The caller must publish all of them, in this order, on a channel with confirms: their
        delivery tags are counted here. Whatever becomes ready goes after what was ready before:
        so an entry that needs more place than there is does not starve.
        """
        while self._refused and self._refused[0][0] <= now:
            self._ready.append(heapq.heappop(self._refused)[2])
        taken: list[Entry] = []
        while self._ready and self._has_place(self._ready[0]):
            entry = self._ready.popleft()
            self._in_flight[self._next_tag] = (entry, now)
            self._next_tag += 1
            self._bytes_in_flight += len(entry.body)
            taken.append(entry)
        return taken

    def returned(self, number: int, reply: Returned) -> None:
        """Note that RabbitMQ handed an entry back; its ack follows on the same channel.

        AMQP 0-9-1 with publisher confirms: for an unroutable mandatory message `basic.return`
        is sent before `basic.ack`.
        """
        self._returned[number] = reply

    def confirm(self, tag: int, *, multiple: bool) -> list[Confirmed]:
        """Take confirmed messages out of flight.

        Those that were not returned are settled, and their documents free for the next entry.
        For those that were, the caller decides: `settle` (dropped or parked) or `retry` (held).
        """
        confirmed = [
            Confirmed(entry, sent_at, self._returned.pop(entry.number, None))
            for entry, sent_at in self._land(tag, multiple=multiple)
        ]
        for each in confirmed:
            if each.returned is None:
                self.settle(each.entry)
        return confirmed

    def nack(self, tag: int, *, multiple: bool, now: float) -> list[Entry]:
        """Take refused messages out of flight; each is retried after its backoff."""
        refused = [entry for entry, _ in self._land(tag, multiple=multiple)]
        for entry in refused:
            self._returned.pop(entry.number, None)
            self.retry(entry, now)
        return refused

    def retry(self, entry: Entry, now: float) -> None:
        """Send an entry that is out of flight again after its backoff; its document waits.

        An orphan is forgotten instead. It comes with this reading, unless an operator parked or
        discarded it: then it must not be sent again.
        """
        if entry.number in self._orphans:
            self._orphans.discard(entry.number)
            self.settle(entry)
            return
        attempt = self._attempts.get(entry.number, 0) + 1
        self._attempts[entry.number] = attempt
        queue = self._documents[entry.feed_id, entry.key]
        queue.sort(key=_NUMBER)
        if queue[0] is not entry:
            # An older one was redriven while this was in flight: now it can still go first.
            self._ready.append(queue[0])
        else:
            heapq.heappush(self._refused, (now + self._backoff(attempt), entry.number, entry))

    def settle(self, entry: Entry) -> None:
        """Be done with an entry that is out of flight, and let the next of its document go."""
        self._count -= 1
        self._bytes -= len(entry.body)
        self._attempts.pop(entry.number, None)
        document = (entry.feed_id, entry.key)
        queue = self._documents[document]
        queue.pop(0)
        if queue:
            self._ready.append(queue[0])
        else:
            del self._documents[document]

    def forget(self) -> None:
        """Forget everything but what is in flight, and begin a new reading."""
        in_flight = [entry for entry, _ in self._in_flight.values()]
        self.reading += 1
        self._documents = {(entry.feed_id, entry.key): [entry] for entry in in_flight}
        self._orphans = {entry.number for entry in in_flight}
        self._attempts = {n: times for n, times in self._attempts.items() if n in self._orphans}
        self._ready.clear()
        self._refused.clear()
        self._count = len(in_flight)
        self._bytes = self._bytes_in_flight

    def lost(self) -> list[Entry]:
        """Forget everything, and begin a new reading: the channel is gone.

        Returns what was in flight. Whether those messages arrived is unknown; they are sent again,
        with the same message ids, when they are offered again. A new channel counts its delivery
        tags from 1.
        """
        in_flight = [entry for entry, _ in self._in_flight.values()]
        self._in_flight.clear()
        self._returned.clear()
        self._next_tag = 1
        self._bytes_in_flight = 0
        self.forget()
        return in_flight

    def _has_place(self, entry: Entry) -> bool:
        if not self._in_flight:
            return True
        limit = self._limits.in_flight if self.cap is None else self.cap
        size = self._bytes_in_flight + len(entry.body)
        return len(self._in_flight) < limit and size <= self._limits.in_flight_bytes

    def _land(self, tag: int, *, multiple: bool) -> list[tuple[Entry, float]]:
        """Take one message, or all up to a tag, out of flight, in the order they were sent."""
        in_flight = self._in_flight
        if multiple:
            tags = []
            for sent in in_flight:
                # Tags are added in growing order, so those up to `tag` come first.
                if sent > tag:
                    break
                tags.append(sent)
        else:
            tags = [tag] if tag in in_flight else []
        landed = [in_flight.pop(sent) for sent in tags]
        self._bytes_in_flight -= sum(len(entry.body) for entry, _ in landed)
        return landed
