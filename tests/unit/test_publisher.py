"""The publisher's loop without a broker: what it takes in, when it stops, what it survives."""

import threading
from collections.abc import Callable

import pytest
from pika import spec

from replicator.domain.model import Entry, Op, Origin, Outcomes
from replicator.errors import BrokerUnavailable, ReplicatorError
from replicator.publisher import publisher as publisher_module
from replicator.publisher import watch
from replicator.publisher.publisher import Publisher
from tests.support.publishing import idle_publisher


def entry(number: int) -> Entry:
    return Entry(number, 1, str(number), Op.UPDATE, Origin.FEED, b"{}", 0)


class FakeLink:
    """A link whose loop turns when a test says so, and whose connection may be lost."""

    host = "127.0.0.1:5672"

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.calls: list[float] = []
        self.soon: list[Callable[[], None]] = []
        self.error: ReplicatorError | None = None
        self.is_lost = False

    def write(self, frames: bytes) -> None:
        if self.is_lost:
            raise AttributeError("'NoneType' object has no attribute 'write'")
        self.written.append(frames)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        if seconds == 0:
            self.soon.append(callback)
        else:
            self.calls.append(seconds)

    def call_when_sent(self, _callback: Callable[[], None]) -> None:
        pytest.fail("no fault point is armed")

    def turn(self) -> None:
        """Do what is due."""
        due, self.soon = self.soon, []
        for callback in due:
            callback()

    def hang_up(self, error: ReplicatorError | None = None) -> None:
        self.error = error


def ended(found: Publisher) -> None:
    """Do what a session does when its link has ended."""
    found._state.ended()
    found._link = None
    found._delivery.lost()


def begun(found: Publisher) -> FakeLink:
    link = FakeLink()
    found._link = link  # type: ignore[assignment]
    found.on_open(link, 1, 131_072)  # type: ignore[arg-type]
    return link


def readings(reported: list[Outcomes]) -> list[int]:
    return [report.reading for report in reported if report.reading]


def in_flight(found: Publisher) -> list[int]:
    return [entry.number for entry, _ in found._delivery.window._in_flight.values()]


def test_room_is_what_the_window_has_less_what_waits_to_be_taken_in() -> None:
    found = idle_publisher(window=10)
    assert found.room == 0, "there is no channel"
    link = begun(found)
    assert found.room == 4000
    found.offer([entry(1), entry(2)], 1)
    assert found.room == 3998
    assert found.status().buffered == 2
    found._state.blocked("low on memory")
    link.turn()

    assert found.room == 3998
    assert found.status().buffered == 2


def test_large_entries_leave_no_room() -> None:
    found = idle_publisher(window=5000)
    link = begun(found)
    found._state.blocked("low on memory")
    large = Entry(1, 1, "1", Op.UPDATE, Origin.FEED, b"x" * (17 << 20), 0)
    found.offer([large], 1)

    assert found.room == 0
    link.turn()
    assert found.room == 0


def test_no_offer_is_lost_from_the_count_whatever_the_threads_do() -> None:
    found = idle_publisher(window=100_000)
    is_done = threading.Event()

    def take_in() -> None:
        while not is_done.is_set():
            found._calls.do()

    taker = threading.Thread(target=take_in, daemon=True)
    taker.start()
    for number in range(1, 20_001):
        found.offer([entry(number)], 1)
    is_done.set()
    taker.join(20)
    found._calls.do()

    assert (found._calls.count, found._calls.size) == (0, 0)
    assert found.status().buffered == 20_000


def test_offers_wake_the_loop_once_until_it_has_turned() -> None:
    found = idle_publisher()
    link = begun(found)
    for number in range(1, 6):
        found.offer([entry(number)], 1)
    assert len(link.soon) == 1
    assert link.written == [], "the loop writes, nobody else"
    link.turn()
    assert in_flight(found) == [1, 2, 3, 4, 5]
    assert len(link.written) == 1

    found.offer([entry(6)], 1)
    assert len(link.soon) == 1


def test_one_turn_follows_confirms_that_come_together() -> None:
    reported: list[Outcomes] = []
    found = idle_publisher(reported.append)
    link = begun(found)
    found.offer([entry(number) for number in range(1, 6)], 1)
    link.turn()
    for tag in range(1, 6):
        found.on_confirm(spec.Basic.Ack(tag))
    assert len(link.soon) == 1
    link.turn()

    assert [list(report.settled) for report in reported[1:]] == [[1, 2, 3, 4, 5]]


def test_an_open_channel_asks_for_a_reading_and_has_room_for_it() -> None:
    room: list[int] = []
    found = idle_publisher(lambda outcomes: room.append(found.room * outcomes.reading))
    begun(found)

    assert room == [10_000]


def test_a_lost_channel_ends_its_reading() -> None:
    reported: list[Outcomes] = []
    found = idle_publisher(reported.append)
    link = begun(found)
    found.offer([entry(1), entry(2), entry(3)], 1)
    link.turn()
    found.on_confirm(spec.Basic.Ack(1))
    ended(found)
    assert (found.status().in_flight, found.status().buffered) == (0, 0)
    assert [list(report.settled) for report in reported[1:]] == [[1]]
    found.offer([entry(4)], 1)  # on its way when the channel was lost
    link = begun(found)
    assert readings(reported) == [1, found._delivery.window.reading]
    found.offer([entry(4)], 1)
    link.turn()
    assert link.written == []
    assert found._calls.count == 0

    found.offer([entry(2), entry(3)], readings(reported)[-1])
    link.turn()
    assert in_flight(found) == [2, 3]


def test_what_it_is_to_forget_is_forgotten_in_its_turn() -> None:
    reported: list[Outcomes] = []
    found = idle_publisher(reported.append, window=1)
    link = begun(found)
    found.offer([entry(1), entry(2)], 1)
    link.turn()
    found.offer([entry(3)], 1)
    found.forget()
    found.offer([entry(4)], 1)  # the store has not heard of the new reading
    assert readings(reported) == [1]
    link.turn()

    assert readings(reported) == [1, 2]
    assert (found.status().in_flight, found.status().buffered) == (1, 0)
    found.offer([entry(1), entry(2), entry(4)], 2)
    link.turn()
    assert found.status().buffered == 2
    found.on_confirm(spec.Basic.Ack(1))
    link.turn()
    assert in_flight(found) == [2]


def test_what_was_settled_in_the_turn_in_which_it_forgets_is_reported_first() -> None:
    reported: list[Outcomes] = []
    found = idle_publisher(reported.append)
    link = begun(found)
    found.offer([entry(1)], 1)
    link.turn()
    found.forget()
    found.on_confirm(spec.Basic.Ack(1))
    link.turn()

    assert [(list(each.settled), each.reading) for each in reported] == [
        *(([], 1), ([1], 0), ([], 2))
    ]


def test_without_a_channel_there_is_nothing_to_forget() -> None:
    reported: list[Outcomes] = []
    found = idle_publisher(reported.append)
    found.forget()
    begun(found)
    assert len(readings(reported)) == 1
    ended(found)
    found.forget()
    begun(found)

    assert len(readings(reported)) == 2


def test_a_turn_after_the_connection_was_lost_writes_nothing() -> None:
    found = idle_publisher()
    link = begun(found)
    link.is_lost = True
    found._state.ended()
    found.offer([entry(1)], 1)
    link.turn()

    assert link.written == []
    assert not found.status().is_connected
    assert found.status().in_flight == 0
    assert found.room == 0


def test_nothing_is_written_while_the_broker_blocks(capfd: pytest.CaptureFixture[str]) -> None:
    found = idle_publisher()
    link = begun(found)
    found._state.blocked("low on memory")
    found.offer([entry(1)], 1)
    link.turn()
    assert link.written == []
    assert found.status().is_blocked
    found._state.unblocked()
    found._tick()

    assert len(link.written) == 1
    capfd.readouterr()


def test_a_refused_entry_is_tried_again_by_a_tick_once_it_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = idle_publisher()
    link = begun(found)
    found.offer([entry(1)], 1)
    link.turn()
    found.on_confirm(spec.Basic.Nack(1))
    link.turn()
    assert len(link.written) == 1
    assert link.calls == [0.1], "the next tick"
    later = publisher_module.time.monotonic() + 0.1
    monkeypatch.setattr(publisher_module.time, "monotonic", lambda: later)
    found._tick()

    assert len(link.written) == 2


def test_a_broker_that_confirms_nothing_for_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = idle_publisher()
    link = begun(found)
    found.offer([entry(1)], 1)
    link.turn()
    monkeypatch.setattr(watch, "_NO_CONFIRM_SECONDS", -1.0)
    found._tick()

    assert isinstance(link.error, BrokerUnavailable)


def test_a_broker_that_blocks_publishers_is_not_left_for_what_it_refused_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_REFUSED_SECONDS", -1.0)
    found = idle_publisher()
    link = begun(found)
    found.offer([entry(1)], 1)
    link.turn()
    found.on_confirm(spec.Basic.Nack(1))
    found._state.blocked("memory")
    found._tick()
    found._state.unblocked()
    found._tick()

    assert link.error is None


def test_a_drain_without_a_connection_gives_up_at_once() -> None:
    found = idle_publisher()
    begun(found)
    assert found.drain(60)
    ended(found)

    assert not found.drain(60)


def test_a_drain_gives_up_at_its_deadline() -> None:
    found = idle_publisher()
    begun(found)
    found.offer([entry(1)], 1)

    assert not found.drain(0.01)


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_is_forgotten_during_a_drain_is_not_settled(
    monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    found = idle_publisher()
    link = begun(found)
    found.offer([entry(1)], 1)

    def forget_it(_seconds: float) -> None:
        if is_lost:
            ended(found)
        else:
            found.forget()
            link.turn()

    monkeypatch.setattr(publisher_module.time, "sleep", forget_it)
    assert not found.drain(60)
