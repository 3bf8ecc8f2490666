"""The window against a simulated broker: order, limits and books hold whatever it answers."""

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from replicator.domain.model import Entry, Op, Origin, Returned
from replicator.domain.window import Limits, Window

NO_ROUTE = Returned(312, "NO_ROUTE")
DOCUMENTS = st.sampled_from([(1, "a"), (1, "b"), (2, "a")])
SIZES = st.integers(0, 12) | st.just(60)


class Broker(RuleBasedStateMachine):
    """Publishes what the window gives, and answers as RabbitMQ may."""

    @initialize(in_flight=st.integers(1, 5), in_flight_bytes=st.integers(10, 50))
    def begin(self, in_flight: int, in_flight_bytes: int) -> None:
        self.limits = Limits(in_flight, in_flight_bytes, 12, 60)
        self.window = Window(self.limits, backoff=lambda attempt: float(min(attempt, 3)))
        self.now = 0.0
        self.number = 0
        self.offered: dict[int, Entry] = {}
        self.settled: set[int] = set()
        self.removed: set[int] = set()
        self.withdrawn: set[int] = set()  # while they are in flight
        self.redriven: set[int] = set()
        self.unconfirmed: dict[int, Entry] = {}  # by delivery tag, as the broker counts
        self.is_returned: set[int] = set()  # numbers of unconfirmed entries handed back
        self.next_tag = 1
        self.refused: dict[int, tuple[int, float]] = {}  # attempts, and when it is due
        self.first_sent: dict[tuple[int, str], list[int]] = defaultdict(list)
        self.last_sent: dict[tuple[int, str], int] = {}

    def open_entries(self) -> list[Entry]:
        done = self.settled | self.removed
        return [entry for number, entry in self.offered.items() if number not in done]

    # The store's side.

    @rule(documents=st.lists(st.tuples(DOCUMENTS, SIZES), min_size=1, max_size=6))
    def offer(self, documents: list[tuple[tuple[int, str], int]]) -> None:
        new = []
        for (feed_id, key), size in documents:
            self.number += 1
            body = b"x" * size
            new.append(Entry(self.number, feed_id, key, Op.UPDATE, Origin.FEED, body, 0))
        self.offered.update({entry.number: entry for entry in new})
        self.window.offer(new)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0]))
    def take(self, seconds: float) -> None:
        self.now += seconds
        bytes_before = sum(len(entry.body) for entry in self.unconfirmed.values())
        for entry in self.window.take(self.now):
            document = (entry.feed_id, entry.key)
            assert entry.number not in self.settled | self.removed
            assert self.refused.get(entry.number, (0, 0.0))[1] <= self.now, "before its backoff"
            assert all(
                (other.feed_id, other.key) != document for other in self.unconfirmed.values()
            ), "two entries of one document in flight"
            older = [
                other.number
                for other in self.open_entries()
                if (other.feed_id, other.key) == document
                and other.number < entry.number
                # It may come late: what was in flight or due before it goes first.
                and other.number not in self.redriven
            ]
            assert not older, "overtook an older entry of its document"
            limit = self.window.cap or self.limits.in_flight
            if self.unconfirmed:
                assert len(self.unconfirmed) < limit
                assert bytes_before + len(entry.body) <= self.limits.in_flight_bytes
            bytes_before += len(entry.body)
            if entry.number not in {*self.first_sent[document], *self.redriven}:
                self.first_sent[document].append(entry.number)
            if entry.number not in self.redriven:
                self.last_sent[document] = entry.number
            self.unconfirmed[self.next_tag] = entry
            self.next_tag += 1

    # An operator's side.

    def _in_flight(self) -> set[int]:
        return {entry.number for entry in self.unconfirmed.values()}

    @precondition(lambda self: self.offered)
    @rule(chosen=st.sets(st.integers(0, 30), min_size=1, max_size=4))
    def withdraw(self, chosen: set[int]) -> None:
        numbers = {1 + position % self.number for position in chosen}
        self.window.withdraw(numbers)
        self.withdrawn |= numbers & self._in_flight()
        for number in numbers & {entry.number for entry in self.open_entries()}:
            if number not in self._in_flight():
                self.removed.add(number)
                self.refused.pop(number, None)

    @precondition(lambda self: self.removed | self.withdrawn)
    @rule(chosen=st.sets(st.integers(0, 30), min_size=1, max_size=4))
    def redrive(self, chosen: set[int]) -> None:
        possible = sorted(self.removed | self.withdrawn)
        numbers = {possible[position % len(possible)] for position in chosen}
        self.window.readmit(self.offered[number] for number in numbers)
        # What was refused of these documents goes behind the older entry, without its backoff.
        documents = {(self.offered[n].feed_id, self.offered[n].key) for n in numbers}
        for number, (attempts, _) in self.refused.items():
            entry = self.offered[number]
            if (entry.feed_id, entry.key) in documents:
                self.refused[number] = (attempts, self.now)
        self.withdrawn -= numbers
        self.removed -= numbers
        self.redriven |= numbers

    # The broker's side.

    def _tags(self, position: int, *, multiple: bool) -> tuple[int, list[int]]:
        tags = sorted(self.unconfirmed)
        tag = tags[position % len(tags)]
        return tag, [each for each in tags if each <= tag] if multiple else [tag]

    @precondition(lambda self: self.unconfirmed)
    @rule(position=st.integers(0, 20))
    def hand_back(self, position: int) -> None:
        _, (tag,) = self._tags(position, multiple=False)
        number = self.unconfirmed[tag].number
        self.is_returned.add(number)
        self.window.returned(number, NO_ROUTE)

    @precondition(lambda self: self.unconfirmed)
    @rule(position=st.integers(0, 20), multiple=st.booleans(), is_held=st.booleans())
    def acknowledge(self, position: int, multiple: bool, is_held: bool) -> None:  # noqa: FBT001
        tag, tags = self._tags(position, multiple=multiple)
        confirmed = self.window.confirm(tag, multiple=multiple)
        assert [each.entry for each in confirmed] == [self.unconfirmed[each] for each in tags]
        for each in tags:
            number = self.unconfirmed.pop(each).number
            if number not in self.is_returned:
                self._settle(number)
        for each in confirmed:
            entry, reply = each.entry, each.returned
            assert (reply is not None) is (entry.number in self.is_returned)
            if reply is None:
                continue
            self.is_returned.discard(entry.number)
            if is_held:
                assert self.window.is_withdrawn(entry.number) is (entry.number in self.withdrawn)
                self.window.retry(entry, self.now)
                self._refuse(entry.number)
            else:
                self.window.settle(entry)
                self._settle(entry.number)

    @precondition(lambda self: self.unconfirmed)
    @rule(position=st.integers(0, 20), multiple=st.booleans())
    def refuse(self, position: int, multiple: bool) -> None:  # noqa: FBT001
        tag, tags = self._tags(position, multiple=multiple)
        refused = self.window.nack(tag, multiple=multiple, now=self.now)
        assert refused == [self.unconfirmed.pop(each) for each in tags]
        for entry in refused:
            self.is_returned.discard(entry.number)
            self._refuse(entry.number)

    def _settle(self, number: int) -> None:
        self.settled.add(number)
        self.withdrawn.discard(number)
        self.refused.pop(number, None)

    def _refuse(self, number: int) -> None:
        if number in self.withdrawn:
            self.withdrawn.discard(number)
            self.removed.add(number)
            self.refused.pop(number, None)
            return
        attempts = self.refused.get(number, (0, 0.0))[0] + 1
        self.refused[number] = (attempts, self.now + min(attempts, 3))

    @rule(parked=st.integers(0, 5), cap=st.none() | st.integers(1, 3))
    def lose_the_channel(self, parked: int, cap: int | None) -> None:
        suspects = self.window.lost()
        in_flight = self.unconfirmed.values()
        assert suspects == [entry for entry in in_flight if entry.number not in self.withdrawn]
        for number in self.withdrawn:
            self.removed.add(number)
            self.refused.pop(number, None)
        self.withdrawn.clear()
        if parked < len(suspects):
            gone = suspects[parked]
            assert self.window.remove([gone.number]) == [gone]
            self.removed.add(gone.number)
            self.refused.pop(gone.number, None)
        self.window.cap = cap
        self.unconfirmed.clear()
        self.is_returned.clear()
        self.next_tag = 1
        self.refused = {n: (attempts, 0.0) for n, (attempts, _) in self.refused.items()}

    # What must hold.

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "window"):
            return
        entries = self.open_entries()
        waiting = len(entries) - len(self.unconfirmed)
        in_flight_bytes = sum(len(entry.body) for entry in self.unconfirmed.values())
        waiting_bytes = sum(len(entry.body) for entry in entries) - in_flight_bytes
        has_room = waiting_bytes < self.limits.buffered_bytes
        assert self.window.in_flight == len(self.unconfirmed)
        assert self.window.buffered == waiting
        assert self.window.is_empty is (not entries)
        assert self.window.refused == len(self.refused)
        assert self.window.room == (max(0, self.limits.buffered - waiting) if has_room else 0)
        in_flight = [entry.number for entry in self.unconfirmed.values()]
        assert self.window.lowest >= min((entry.number for entry in entries), default=2**63 - 1)
        assert self.window.lowest <= min(in_flight, default=2**63 - 1)
        assert self.window._bytes == in_flight_bytes + waiting_bytes
        assert self.window._bytes_in_flight == in_flight_bytes

    @invariant()
    def first_deliveries_of_a_document_are_in_order(self) -> None:
        for sent in getattr(self, "first_sent", {}).values():
            assert sent == sorted(sent)

    def teardown(self) -> None:
        """A broker that takes everything in the end gets everything, the newest last."""
        if not hasattr(self, "window"):
            return
        self.window.cap = None
        for _ in range(2 * len(self.offered) + 1):
            self.take(5.0)
            if self.unconfirmed:
                self.is_returned.clear()
                self.window._returned.clear()
                self.acknowledge(len(self.unconfirmed) - 1, multiple=True, is_held=False)
        assert self.window.is_empty
        assert self.settled | self.removed == set(self.offered)
        for document, number in self.last_sent.items():
            sendable = [
                entry.number
                for entry in self.offered.values()
                if (entry.feed_id, entry.key) == document
                and entry.number not in self.removed | self.redriven
            ]
            assert not sendable or number >= max(sendable)


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
