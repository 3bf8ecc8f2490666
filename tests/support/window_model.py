"""A window between a simulated outbox and a simulated broker, which check what it sends.

The outbox is read again whenever the window forgets, operators park, redrive and discard what is
in it, and what was read is old by the time it is offered.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from enum import Enum, auto
from typing import NamedTuple

from replicator.domain.model import Entry, Op, Origin, Returned
from replicator.domain.window import Document, Window, WindowLimits

NO_ROUTE = Returned(312, "NO_ROUTE")
DOCUMENTS = [(1, "a"), (1, "b"), (2, "a")]
SIZES = [0, 1, 5, 12, 60]
PAGE = 4

Step = tuple[str, int]
"""An action, and a number that it makes its choices with."""


class State(Enum):
    PENDING = auto()
    PARKED = auto()
    GONE = auto()


class Report(NamedTuple):
    """What the publisher reports: what became of entries, or that a reading begins."""

    settled: Collection[int] = ()
    parked: Collection[int] = ()
    reading: int = 0


def document(entry: Entry) -> Document:
    return entry.feed_id, entry.key


class Pipe:
    """The store, operators and the broker, around a window."""

    def __init__(self, limits: WindowLimits) -> None:
        self.limits = limits
        self.window = Window(limits, backoff=lambda attempt: float(min(attempt, 3)))
        self.now = 0.0
        # The outbox, and the store.
        self.entries: dict[int, Entry] = {}
        self.states: dict[int, State] = {}
        self.reports: list[Report] = [Report(reading=self.window.reading)]
        self.reading = 0
        self.read_to = 0
        self.page: tuple[list[Entry], int] | None = None
        # Operators.
        self.touched: set[int] = set()  # what they changed keeps no order with the others
        self.given_up: set[int] = set()  # not pending when everything was last forgotten
        # What the window has in memory, and what the broker has.
        self.held: dict[int, Entry] = {}
        self.unconfirmed: dict[int, Entry] = {}  # by delivery tag
        self.orphans: set[int] = set()
        self.returned: set[int] = set()
        self.answered: set[int] = set()  # confirmed, or given up by the policy
        self.next_tag = 1
        self.refused: dict[int, tuple[int, float]] = {}  # attempts, and when it is due
        self.first_sent: dict[Document, list[int]] = defaultdict(list)
        self.last_sent: dict[Document, int] = {}

    def play(self, steps: Sequence[Step], *, checks_books: bool = True) -> None:
        for action, choice in steps:
            getattr(self, action)(choice)
            if checks_books:
                self.check_books()
        self.play_to_the_end()

    # The store.

    def capture(self, choice: int) -> None:
        for each in range(1 + choice % 3):
            feed_id, key = DOCUMENTS[(choice + each) % (1 + choice % len(DOCUMENTS))]
            number = len(self.entries) + 1
            body = b"x" * SIZES[(choice + each) % len(SIZES)]
            self.entries[number] = Entry(number, feed_id, key, Op.UPDATE, Origin.FEED, body, 0)
            self.states[number] = State.PENDING

    def work(self, _choice: int) -> None:
        """Commit what was reported until now, then read on; what was read is offered later."""
        reports, self.reports = self.reports, []
        for report in reports:
            self._commit(report)
        if self.page is None and self.reading:
            pending = [n for n in self._all(State.PENDING) if n > self.read_to][:PAGE]
            if pending:
                self.page = [self.entries[number] for number in pending], self.reading
                self.read_to = pending[-1]

    def _commit(self, report: Report) -> None:
        pending = set(self._all(State.PENDING))
        self.states |= dict.fromkeys(pending & set(report.settled), State.GONE)
        self.states |= dict.fromkeys(pending & set(report.parked), State.PARKED)
        self.touched |= pending & set(report.parked)
        if report.reading:
            self.reading, self.read_to = report.reading, 0

    def offer(self, _choice: int) -> None:
        if self.page is None:
            return
        (entries, reading), self.page = self.page, None
        self.window.offer(entries, reading)
        if reading == self.last_reported_reading:
            self.held |= {e.number: e for e in entries if e.number not in self.orphans}
            self.orphans -= {entry.number for entry in entries}

    @property
    def last_reported_reading(self) -> int:
        """The reading that was last reported, whether the store knows of it or not."""
        return max([self.reading, *(report.reading for report in self.reports)])

    def _all(self, state: State) -> list[int]:
        return [number for number, its in self.states.items() if its is state]

    # Operators: the store hears of it at once, or later.

    def park_or_discard(self, choice: int) -> None:
        for number in self._all(State.PENDING)[choice % 3 : 2 + choice % 4]:
            self.states[number] = State.GONE if choice % 5 == 0 else State.PARKED
            self.touched.add(number)
        self._hear(choice)

    def redrive(self, choice: int) -> None:
        for number in self._all(State.PARKED)[choice % 2 :]:
            self.states[number] = State.PENDING
            self.given_up.discard(number)
            self.answered.discard(number)
        self._hear(choice)

    def _hear(self, choice: int) -> None:
        if choice % 4:
            self.forget(choice)
        if choice % 4 == 1:
            self.page = None
            self.work(choice)

    def forget(self, _choice: int) -> None:
        self.window.forget()
        self._forgot({entry.number: entry for entry in self.unconfirmed.values()})

    def _forgot(self, in_flight: dict[int, Entry]) -> None:
        self.held = dict(in_flight)
        self.orphans = set(in_flight)
        self.refused = {n: tried for n, tried in self.refused.items() if n in in_flight}
        self.given_up = set(self.states) - set(self._all(State.PENDING))
        self.reports.append(Report(reading=self.window.reading))

    # The broker.

    def take(self, choice: int) -> None:
        self.now += (0.0, 0.5, 1.0, 5.0)[choice % 4]
        size = sum(len(entry.body) for entry in self.unconfirmed.values())
        for entry in self.window.take(self.now):
            self._check_sending(entry)
            if self.unconfirmed:
                assert len(self.unconfirmed) < (self.window.cap or self.limits.in_flight)
                assert size + len(entry.body) <= self.limits.in_flight_bytes
            size += len(entry.body)
            self.unconfirmed[self.next_tag] = entry
            self.next_tag += 1

    def _check_sending(self, entry: Entry) -> None:
        number, of = entry.number, document(entry)
        in_flight = {document(each) for each in self.unconfirmed.values()}
        assert of not in in_flight, "two entries of one document in flight"
        assert self.refused.get(number, (0, 0.0))[1] <= self.now, "before its backoff"
        assert number not in self.given_up, "sent although it was parked, and everything forgotten"
        assert number not in self.answered, "sent although it was confirmed, or given up"
        of_document = [n for n, other in self.held.items() if document(other) == of]
        assert number <= min(of_document, default=number), "sent before an older one in memory"
        if number in self.touched:
            return
        done = self.touched | self.answered
        older = [n for n in self._numbers_of(of) if n < number and n not in done]
        assert not older, "overtook an older entry of its document"
        if number not in self.first_sent[of]:
            self.first_sent[of].append(number)
        assert self.first_sent[of] == sorted(self.first_sent[of])
        self.last_sent[of] = number

    def _numbers_of(self, of: Document) -> list[int]:
        return [number for number, entry in self.entries.items() if document(entry) == of]

    def _tags(self, choice: int) -> tuple[int, bool, list[int]]:
        position, is_multiple = divmod(choice, 2)
        tags = sorted(self.unconfirmed)
        tag = tags[position % len(tags)]
        return tag, bool(is_multiple), [n for n in tags if n <= tag] if is_multiple else [tag]

    def hand_back(self, choice: int) -> None:
        if self.unconfirmed:
            _, _, tags = self._tags(choice)
            for tag in tags:
                self.returned.add(self.unconfirmed[tag].number)
                self.window.returned(self.unconfirmed[tag].number, NO_ROUTE)

    def acknowledge(self, choice: int) -> None:
        if not self.unconfirmed:
            return
        policy = ("drop", "hold", "park")[choice % 3]
        tag, is_multiple, tags = self._tags(choice)
        confirmed = self.window.confirm(tag, multiple=is_multiple)
        assert [each.entry for each in confirmed] == [self.unconfirmed.pop(n) for n in tags]
        for entry, _, reply in ((each.entry, each.sent_at, each.returned) for each in confirmed):
            number = entry.number
            assert (reply is not None) is (number in self.returned)
            self.returned.discard(number)
            if reply is not None and policy == "hold":
                self.window.retry(entry, self.now)
                self._refuse(entry)
                continue
            if reply is not None:
                self.window.settle(entry)
            is_parked = reply is not None and policy == "park"
            self.reports.append(Report(parked=[number]) if is_parked else Report([number]))
            self.answered.add(number)
            del self.held[number]
            self.refused.pop(number, None)

    def refuse(self, choice: int) -> None:
        if not self.unconfirmed:
            return
        tag, is_multiple, tags = self._tags(choice)
        refused = self.window.nack(tag, multiple=is_multiple, now=self.now)
        assert refused == [self.unconfirmed.pop(each) for each in tags]
        for entry in refused:
            self.returned.discard(entry.number)
            self._refuse(entry)

    def _refuse(self, entry: Entry) -> None:
        number = entry.number
        if number in self.orphans:
            self.orphans.discard(number)
            del self.held[number]
            self.refused.pop(number, None)
            return
        attempts = self.refused.get(number, (0, 0.0))[0] + 1
        is_behind = any(document(e) == document(entry) and n < number for n, e in self.held.items())
        self.refused[number] = (attempts, 0.0 if is_behind else self.now + min(attempts, 3))

    def lose_the_channel(self, choice: int) -> None:
        in_flight = self.window.lost()
        assert in_flight == list(self.unconfirmed.values())
        self.unconfirmed.clear()
        self.returned.clear()
        self.next_tag = 1
        self.window.cap = (None, 1, 2)[choice % 3]
        if len(in_flight) == 1 and choice % 2:
            self.reports.append(Report(parked=[in_flight[0].number]))
            self.answered.add(in_flight[0].number)
        self._forgot({})

    # What must hold.

    def check_books(self) -> None:
        window = self.window
        waiting = len(self.held) - len(self.unconfirmed)
        in_flight_bytes = sum(len(entry.body) for entry in self.unconfirmed.values())
        waiting_bytes = sum(len(entry.body) for entry in self.held.values()) - in_flight_bytes
        has_room = waiting_bytes < self.limits.buffered_bytes
        assert window.in_flight == len(self.unconfirmed)
        assert window.buffered == waiting
        assert window.is_empty is (not self.held)
        assert window.refused == len(self.refused)
        room = max(0, self.limits.buffered - waiting) if has_room else 0
        assert window.room_beside(0, 0) == room
        assert window._bytes == in_flight_bytes + waiting_bytes
        assert window._bytes_in_flight == in_flight_bytes

    def play_to_the_end(self) -> None:
        """A broker that takes everything in the end gets everything, the newest last."""
        self.window.cap = None
        self.forget(0)  # what operators did last is heard
        self.page = None
        for _ in range(3 * len(self.entries) + 3):
            self.work(0)
            self.offer(0)
            self.take(3)
            if self.unconfirmed:
                self.acknowledge(6 * len(self.unconfirmed) - 3)  # all that were sent, dropped
        self.check_books()
        assert self.window.is_empty
        assert State.PENDING not in self.states.values()
        for of, number in self.last_sent.items():
            untouched = [n for n in self._numbers_of(of) if n not in self.touched]
            assert not untouched or number >= max(untouched), "the last is not the newest"


ACTIONS = [
    *8 * ["work", "offer", "take"],
    *4 * ["capture", "acknowledge", "refuse"],
    *("hand_back", "park_or_discard", "redrive", "forget", "lose_the_channel"),
]
