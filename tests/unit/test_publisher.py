"""The publisher's loop without a broker: what it takes in, when it stops, what it survives."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import exceptions, spec

from replicator import retry
from replicator.domain.model import Entry, Op, Origin, Outcomes, TableName
from replicator.errors import BrokerRefused, BrokerUnavailable, ReplicatorError
from replicator.metrics import Metrics
from replicator.publisher import broker as broker_module
from replicator.publisher import publisher as publisher_module
from replicator.publisher import watch
from replicator.publisher.broker import Broker, Publication, prepare
from replicator.publisher.publisher import Publisher
from replicator.retry import Backoff


def entry(number: int) -> Entry:
    return Entry(number, 1, str(number), Op.UPDATE, Origin.FEED, b"{}", 0)


def broker(host: tuple[str, int] = ("127.0.0.1", 1)) -> Broker:
    return Broker([host], "guest", "guest", "/", "rethinkdb")


def publisher(report: Any = None, **publication: Any) -> Publisher:
    return Publisher(
        broker(),
        Publication(**publication),
        outbox_id="abcdefg2",
        names={1: TableName("db", "t")},
        report=report or (lambda _outcomes: None),
        metrics=Metrics(),
        clock=lambda: 5.0,
    )


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


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A broker that accepts and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


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
    found = publisher(window=10)
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
    found = publisher(window=5000)
    link = begun(found)
    found._state.blocked("low on memory")
    large = Entry(1, 1, "1", Op.UPDATE, Origin.FEED, b"x" * (17 << 20), 0)
    found.offer([large], 1)

    assert found.room == 0
    link.turn()
    assert found.room == 0


def test_no_offer_is_lost_from_the_count_whatever_the_threads_do() -> None:
    found = publisher(window=100_000)
    is_done = threading.Event()

    def take_in() -> None:
        while not is_done.is_set():
            found._incoming.do()

    taker = threading.Thread(target=take_in, daemon=True)
    taker.start()
    for number in range(1, 20_001):
        found.offer([entry(number)], 1)
    is_done.set()
    taker.join(20)
    found._incoming.do()

    assert (found._incoming.count, found._incoming.size) == (0, 0)
    assert found.status().buffered == 20_000


def test_offers_wake_the_loop_once_until_it_has_turned() -> None:
    found = publisher()
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
    found = publisher(reported.append)
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
    found = publisher(lambda outcomes: room.append(found.room * outcomes.reading))
    begun(found)

    assert room == [10_000]


def test_a_lost_channel_ends_its_reading() -> None:
    reported: list[Outcomes] = []
    found = publisher(reported.append)
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
    assert found._incoming.count == 0

    found.offer([entry(2), entry(3)], readings(reported)[-1])
    link.turn()
    assert in_flight(found) == [2, 3]


def test_what_it_is_to_forget_is_forgotten_in_its_turn() -> None:
    reported: list[Outcomes] = []
    found = publisher(reported.append, window=1)
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
    found = publisher(reported.append)
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
    found = publisher(reported.append)
    found.forget()
    begun(found)
    assert len(readings(reported)) == 1
    ended(found)
    found.forget()
    begun(found)

    assert len(readings(reported)) == 2


def test_a_turn_after_the_connection_was_lost_writes_nothing() -> None:
    found = publisher()
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
    found = publisher()
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
    found = publisher()
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
    found = publisher()
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
    found = publisher()
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
    found = publisher()
    begun(found)
    assert found.drain(60)
    ended(found)

    assert not found.drain(60)


def test_a_drain_gives_up_at_its_deadline() -> None:
    found = publisher()
    begun(found)
    found.offer([entry(1)], 1)

    assert not found.drain(0.01)


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_is_forgotten_during_a_drain_is_not_settled(
    monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    found = publisher()
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


def test_a_publisher_that_was_stopped_does_not_connect() -> None:
    found = publisher()
    found.stop()
    found.run()

    assert found.status().error is None


def test_a_permanent_error_at_start_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_broker: Broker) -> None:
        raise BrokerRefused("wrong password")

    monkeypatch.setattr(publisher_module, "prepare", refuse)
    with pytest.raises(BrokerRefused, match="wrong password"):
        publisher().run()


def test_a_permanent_error_later_is_retried_and_does_not_outlive_the_stop(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = publisher()
    found._state.was_open = True
    attempts = []

    def refuse(_broker: Broker) -> None:
        attempts.append(1)
        if len(attempts) == 3:
            found.stop()
        raise BrokerRefused("no permission")

    monkeypatch.setattr(publisher_module, "prepare", refuse)
    monkeypatch.setattr(retry, "PERMANENT", Backoff(0.001, 0.002))
    found.run()

    assert len(attempts) == 3
    assert found.status().error == "no permission"
    capfd.readouterr()


def test_a_broker_that_accepts_and_says_nothing_is_unavailable(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_CONNECT_SECONDS", 0.2)

    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        prepare(broker(listener.getsockname()))


def test_a_broker_that_is_lost_while_it_is_left_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lost:
        is_open = True
        _impl = type("Impl", (), {"_adapter_call_later": lambda *_a: None})()

        def channel(self) -> Any:
            return type("Channel", (), {"exchange_declare": lambda *_a, **_k: None})()

        def close(self) -> None:
            raise exceptions.StreamLostError("gone")

    chosen = pika.ConnectionParameters()
    monkeypatch.setattr(broker_module, "connect", lambda _broker: (Lost(), chosen))

    assert prepare(broker()) is chosen
