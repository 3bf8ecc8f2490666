"""The window of unconfirmed messages: what may be published now, and what confirms settle.

This is where promise G3 is kept. At most one entry of a document is in flight: the next one
waits until RabbitMQ has confirmed the one before. So a nack or a return can never let a later
entry overtake, and the first deliveries of a document are in order whatever the broker refuses.
(docs/adr/0002 says what that costs and why a pipelined document cannot keep the promise.)

Entries are in exactly one place:

    offered ──▶ ready ──────take─────▶ in flight ──confirm──▶ settled
                  │                     ▲    │
     its document │                 due ┘    ├─ nack, or returned and held ──▶ retry ──▶ due
      is in use   └──▶ waiting ──▶ due       └─ refused for good, or returned ──▶ parked, dropped

A lost channel puts everything that is not settled back to ready, in the order of the numbers.
What an operator parks or discards is withdrawn: taken out, or, in flight, not sent again. What is
redriven is readmitted among those that are ready, in the order of the numbers.
Pure: the caller says what the time is; delivery tags are counted here as RabbitMQ counts them.
"""

import bisect
import heapq
import itertools
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from replicator.domain.model import Entry, Returned

Document = tuple[int, str]
"""A document: its feed and its key."""

_NUMBER: Final = attrgetter("number")


class Limits(NamedTuple):
    """How much may be unconfirmed, and how much may wait in memory."""

    in_flight: int
    in_flight_bytes: int
    buffered: int
    buffered_bytes: int


class InFlight(msgspec.Struct, frozen=True, gc=False):
    """A published entry, until its confirm comes."""

    entry: Entry
    sent_at: float  # seconds, the caller's clock


class Confirmed(msgspec.Struct, frozen=True, gc=False):
    """An entry that RabbitMQ took responsibility for, or handed back before its ack."""

    entry: Entry
    sent_at: float
    returned: Returned | None


class Window:
    """Order, limits and retries of what is published; not thread-safe, one thread at a time."""

    def __init__(self, limits: Limits, *, backoff: Callable[[int], float]) -> None:
        """Start empty.

        Args:
            limits: bounds in entries and bytes; one entry larger than a byte limit still goes.
            backoff: seconds to wait before attempt ``n`` (1 is the first retry) of an entry.
        """
        self._limits = limits
        self._backoff = backoff
        self._ready: deque[Entry] = deque()
        self._due: deque[Entry] = deque()
        self._retry: list[tuple[float, int, Entry]] = []
        # Documents in use, each with the entries that wait for its earlier one.
        self._in_use: dict[Document, deque[Entry] | None] = {}
        self._waiting = 0
        self._in_flight: dict[int, InFlight] = {}
        self._returned: dict[int, Returned] = {}
        self._attempts: dict[int, int] = {}
        self._withdrawn: set[int] = set()  # of those in flight
        self._next_tag = 1
        self._bytes = 0
        self._bytes_in_flight = 0
        self.cap: int | None = None
        """A smaller limit of messages in flight, while the publisher looks for a poison entry."""

    @property
    def in_flight(self) -> int:
        """Messages published and not yet confirmed."""
        return len(self._in_flight)

    @property
    def buffered(self) -> int:
        """Entries in memory that are not in flight."""
        return len(self._ready) + len(self._due) + len(self._retry) + self._waiting

    @property
    def refused(self) -> int:
        """Entries that were nacked, or returned and held, and are to be tried again."""
        return len(self._attempts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to publish or to confirm."""
        return not self._in_flight and not self.buffered

    @property
    def room(self) -> int:
        """How many entries may be offered now."""
        return self.room_beside(0, 0)

    def room_beside(self, count: int, size: int) -> int:
        """Return the room that is left when so many entries of so many bytes wait outside."""
        if self._bytes - self._bytes_in_flight + size >= self._limits.buffered_bytes:
            return 0
        return max(0, self._limits.buffered - self.buffered - count)

    @property
    def next_retry_at(self) -> float | None:
        """When the first refused entry is due again; None when there is none."""
        return self._retry[0][0] if self._retry else None

    @property
    def lowest(self) -> int:
        """The lowest number that has no answer yet; larger than any when there is none.

        Looks at everything: for the rare search for a poison entry. An entry that waits for its
        next attempt was answered, by a nack or a return: it is not what closes a channel.
        """
        numbers = [flight.entry.number for flight in self._in_flight.values()]
        numbers += [entry.number for entry in itertools.chain(self._due, self._ready)]
        return min(numbers, default=sys.maxsize)

    def attempts(self, number: int) -> int:
        """How often this entry was refused since it came into memory."""
        return self._attempts.get(number, 0)

    def offer(self, entries: Iterable[Entry]) -> None:
        """Add entries in the order of their numbers, all larger than those offered before."""
        for entry in entries:
            self._ready.append(entry)
            self._bytes += len(entry.body)

    def readmit(self, entries: Iterable[Entry]) -> None:
        """Add redriven entries, in any order; those that are still here stay where they are.

        Each goes before newer entries of its document that wait or were refused, and after what
        is in flight: a document has one message in flight at a time.
        """
        others = itertools.chain(self._ready, self._due, *filter(None, self._in_use.values()))
        present = {entry.number for entry in others}
        present |= {number for _, number, _ in self._retry}
        present |= {flight.entry.number for flight in self._in_flight.values()}
        new = {entry.number: entry for entry in entries}
        self._withdrawn -= new.keys()
        added = [entry for number, entry in new.items() if number not in present]
        self._bytes += sum(len(entry.body) for entry in added)
        again = self._hold_back({(entry.feed_id, entry.key) for entry in added})
        self._ready = deque(sorted([*self._ready, *added, *again], key=_NUMBER))

    def _hold_back(self, documents: set[Document]) -> list[Entry]:
        """Take back what is not in flight of these documents, so that an older entry goes first."""
        back: list[Entry] = []
        for entry in [*self._due, *(entry for _, _, entry in self._retry)]:
            document = (entry.feed_id, entry.key)
            if document in documents:
                queue = self._in_use.pop(document) or ()
                self._waiting -= len(queue)
                back += [entry, *queue]
        gone = {entry.number for entry in back}
        self._due = deque(entry for entry in self._due if entry.number not in gone)
        self._retry = [each for each in self._retry if each[1] not in gone]
        heapq.heapify(self._retry)
        return back

    def withdraw(self, numbers: Collection[int]) -> None:
        """Take out what an operator parked or discarded; unknown numbers are nothing wrong.

        What is in flight cannot be called back. It stays until its answer comes, and is not sent
        again whatever that is.
        """
        gone = set(numbers)
        self._withdrawn |= gone & {each.entry.number for each in self._in_flight.values()}
        self._take_out(gone)
        for document, queue in self._in_use.items():
            if queue and any(entry.number in gone for entry in queue):
                self._in_use[document] = kept = self._without(queue, gone)
                self._waiting -= len(queue) - len(kept)
        held = [*self._due, *(entry for _, _, entry in self._retry)]
        self._due = deque(entry for entry in self._due if entry.number not in gone)
        self._retry = [each for each in self._retry if each[1] not in gone]
        heapq.heapify(self._retry)
        # Order matters: those that wait are gone by now, or one of them would be let go here.
        for entry in held:
            if entry.number in gone:
                self.settle(entry)

    def is_withdrawn(self, number: int) -> bool:
        """Whether this entry, which is in flight or was just answered, was withdrawn."""
        return number in self._withdrawn

    def take(self, now: float) -> list[Entry]:
        """Return the entries to publish now, in order, and count them as in flight.

        The caller must publish all of them, in this order, on a channel with confirms: their
        delivery tags are counted here.
        """
        while self._retry and self._retry[0][0] <= now:
            self._due.append(heapq.heappop(self._retry)[2])
        taken: list[Entry] = []
        while self._due and self._has_place(self._due[0]):
            taken.append(self._send(self._due.popleft(), now))
        in_use = self._in_use
        # An older entry that needs more place than there is must not starve behind small ones.
        while not self._due and self._ready and self._has_place(self._ready[0]):
            entry = self._ready.popleft()
            document = (entry.feed_id, entry.key)
            if document in in_use:
                # Order matters: sent now, this entry could arrive although the one before it is
                # refused, and a consumer would see the older state last.
                queue = in_use[document]
                if queue is None:
                    queue = in_use[document] = deque()
                # Only a redriven entry is older than one that waits already.
                if queue and queue[-1].number > entry.number:
                    bisect.insort(queue, entry, key=_NUMBER)
                else:
                    queue.append(entry)
                self._waiting += 1
            else:
                in_use[document] = None
                taken.append(self._send(entry, now))
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
            Confirmed(flight.entry, flight.sent_at, self._returned.pop(flight.entry.number, None))
            for flight in self._land(tag, multiple=multiple)
        ]
        for each in confirmed:
            if each.returned is None:
                self.settle(each.entry)
        return confirmed

    def nack(self, tag: int, *, multiple: bool, now: float) -> list[Entry]:
        """Take refused messages out of flight; each is retried after its backoff."""
        refused = [flight.entry for flight in self._land(tag, multiple=multiple)]
        for entry in refused:
            self._returned.pop(entry.number, None)
            self.retry(entry, now)
        return refused

    def retry(self, entry: Entry, now: float) -> None:
        """Send an entry that is out of flight again after its backoff; its document waits.

        One that was withdrawn is forgotten instead.
        """
        if entry.number in self._withdrawn:
            self.settle(entry)
            return
        attempt = self._attempts.get(entry.number, 0) + 1
        self._attempts[entry.number] = attempt
        heapq.heappush(self._retry, (now + self._backoff(attempt), entry.number, entry))

    def settle(self, entry: Entry) -> None:
        """Forget an entry that is out of flight, and let the next of its document go."""
        self._forget(entry)
        document = (entry.feed_id, entry.key)
        queue = self._in_use[document]
        if queue:
            self._due.append(queue.popleft())
            self._waiting -= 1
        else:
            del self._in_use[document]

    def lost(self) -> list[Entry]:
        """Put everything that is not settled back in order: the channel is gone.

        Returns what was in flight and not withdrawn. Whether those messages arrived is unknown;
        they are sent again, with the same message ids. A new channel counts its delivery tags
        from 1.
        """
        withdrawn = set(self._withdrawn)
        in_flight = self._without([each.entry for each in self._in_flight.values()], withdrawn)
        waiting = [entry for queue in self._in_use.values() if queue for entry in queue]
        again = [*in_flight, *waiting, *self._due, *(entry for _, _, entry in self._retry)]
        # Order matters: in any other order than that of the numbers, an older entry of a document
        # would be delivered last. What is redriven can be older than what was taken before it.
        self._ready = deque(sorted([*again, *self._ready], key=_NUMBER))
        self._due.clear()
        self._retry.clear()
        self._in_use.clear()
        self._in_flight.clear()
        self._returned.clear()
        self._withdrawn.clear()
        self._waiting = 0
        self._bytes_in_flight = 0
        self._next_tag = 1
        return list(in_flight)

    def remove(self, numbers: Sequence[int]) -> list[Entry]:
        """Take entries out that are not to be published; only directly after `lost`."""
        return self._take_out(set(numbers))

    def _take_out(self, gone: set[int]) -> list[Entry]:
        removed = [entry for entry in self._ready if entry.number in gone]
        self._ready = self._without(self._ready, gone)
        return removed

    def _without(self, entries: Collection[Entry], gone: set[int]) -> deque[Entry]:
        """Return the entries that stay, and forget those that are gone."""
        for entry in entries:
            if entry.number in gone:
                self._forget(entry)
        return deque(entry for entry in entries if entry.number not in gone)

    def _forget(self, entry: Entry) -> None:
        self._bytes -= len(entry.body)
        self._attempts.pop(entry.number, None)
        self._withdrawn.discard(entry.number)

    def _has_place(self, entry: Entry) -> bool:
        if not self._in_flight:
            return True
        limit = self._limits.in_flight if self.cap is None else self.cap
        size = self._bytes_in_flight + len(entry.body)
        return len(self._in_flight) < limit and size <= self._limits.in_flight_bytes

    def _send(self, entry: Entry, now: float) -> Entry:
        self._in_flight[self._next_tag] = InFlight(entry, now)
        self._next_tag += 1
        self._bytes_in_flight += len(entry.body)
        return entry

    def _land(self, tag: int, *, multiple: bool) -> list[InFlight]:
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
        self._bytes_in_flight -= sum(len(flight.entry.body) for flight in landed)
        return landed
