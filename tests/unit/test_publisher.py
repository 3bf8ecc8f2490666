"""The publisher's loop without a broker: what it takes in, when it stops, what it survives."""

import socket
import threading
from collections.abc import Iterator
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
    """A link whose connection may be lost: writing to it fails as pika's own does."""

    host = "127.0.0.1:5672"

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.calls: list[float] = []
        self.soon = 0
        self.error: ReplicatorError | None = None
        self.is_lost = False

    def write(self, frames: bytes) -> None:
        if self.is_lost:
            raise AttributeError("'NoneType' object has no attribute 'write'")
        self.written.append(frames)

    def call_soon(self, _callback: Any) -> None:
        self.soon += 1

    def call_later(self, seconds: float, _callback: Any) -> None:
        self.calls.append(seconds)

    def hang_up(self, error: ReplicatorError | None = None) -> None:
        self.error = error


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A broker that accepts and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def begun(found: Publisher) -> FakeLink:
    link = FakeLink()
    found._link = link  # type: ignore[assignment]
    found.on_open(link, 1, 131_072)  # type: ignore[arg-type]
    return link


def test_room_is_what_the_window_has_less_what_waits_to_be_taken_in() -> None:
    found = publisher(window=10)
    assert found.room == 4000
    found.offer([entry(1), entry(2)])
    assert found.room == 3998
    found._turn()

    assert found.room == 3998
    assert found.status().buffered == 2


def test_large_entries_leave_no_room_also_while_there_is_no_connection() -> None:
    found = publisher(window=5000)
    large = Entry(1, 1, "1", Op.UPDATE, Origin.FEED, b"x" * (17 << 20), 0)
    found.offer([large])

    assert found.room == 0
    found._incoming.do()
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
        found.offer([entry(number)])
    is_done.set()
    taker.join(20)
    found._incoming.do()

    assert found._incoming.count == 0
    assert found.status().buffered == 20_000


def test_a_few_entries_are_published_by_who_offers_them() -> None:
    found = publisher()
    link = begun(found)
    found.offer([entry(1), entry(2)])

    assert len(link.written) == 1
    assert (found.status().in_flight, found._incoming.count) == (2, 0)


def test_what_is_offered_while_the_loop_works_is_published_by_the_loop_in_order() -> None:
    found = publisher()
    link = begun(found)
    with found._lock:
        found.offer([entry(1)])
    assert (link.written, link.soon, found._incoming.count) == ([], 1, 1)
    found.offer([entry(2)])

    flights = found._delivery.window._in_flight.values()
    assert [flight.entry.number for flight in flights] == [1, 2]


def test_many_entries_are_left_to_the_loop() -> None:
    found = publisher()
    link = begun(found)
    found.offer([entry(number) for number in range(1, 102)])

    assert (link.written, link.soon) == ([], 1)


def test_nothing_is_published_beside_the_loop_while_a_refused_message_waits_for_its_time() -> None:
    found = publisher()
    link = begun(found)
    found.offer([entry(1)])
    found.on_confirm(spec.Basic.Nack(1))
    found.offer([entry(2)])
    assert (len(link.written), link.soon) == (1, 1)
    calls = len(link.calls)
    found.on_read()

    assert len(link.written) == 2
    assert len(link.calls) == calls + 1, "no turn for the next attempt"


def test_nothing_more_goes_over_a_connection_whose_turn_met_a_defect() -> None:
    """Its tags are counted: the next confirm would be taken for one of a message never sent."""
    found = publisher()
    link = begun(found)
    link.is_lost = True
    with pytest.raises(AttributeError):
        found.offer([entry(1)])
    link.is_lost = False
    found.offer([entry(2)])
    found._turn()

    assert link.written == []
    assert not found.status().is_connected
    assert link.soon >= 1, "it is hung up"
    assert not found._lock.locked()


def test_who_publishes_beside_the_loop_does_not_vouch_for_it() -> None:
    found = publisher()
    begun(found)
    turned_at = found.status().turned_at
    found.offer([entry(1)])

    assert found.status().in_flight == 1
    assert found.status().turned_at == turned_at


def test_a_blocked_broker_is_sent_nothing_by_anybody() -> None:
    found = publisher()
    link = begun(found)
    found.on_blocked("low on memory")
    found.offer([entry(1)])

    assert link.written == []
    assert found.status().buffered == 1


def test_a_turn_after_the_connection_was_lost_writes_nothing() -> None:
    found = publisher()
    link = begun(found)
    link.is_lost = True
    found.on_ended()
    found.offer([entry(1)])
    found._turn()

    assert link.written == []
    assert not found.status().is_connected
    assert found.status().in_flight == 0


def test_what_was_in_flight_is_sent_again_over_the_next_link() -> None:
    reported: list[Outcomes] = []
    found = publisher(reported.append)
    link = begun(found)
    found.offer([entry(1), entry(2)])
    found._turn()
    assert found.status().in_flight == 2
    found.on_ended()
    found._delivery.window.lost()

    assert (found.status().in_flight, found.status().buffered) == (0, 2)
    assert reported == []
    again = begun(found)
    assert b"".join(again.written) == b"".join(link.written)


def test_nothing_is_written_while_the_broker_blocks(capfd: pytest.CaptureFixture[str]) -> None:
    found = publisher()
    link = begun(found)
    found.on_blocked("low on memory")
    found.offer([entry(1)])
    found._turn()
    assert link.written == []
    assert found.status().is_blocked
    found.on_unblocked()

    assert len(link.written) == 1
    capfd.readouterr()


def test_a_refused_entry_is_tried_again_when_it_is_due_and_not_a_tick_later() -> None:
    found = publisher()
    link = begun(found)
    found.offer([entry(1)])
    found._turn()
    link.calls.clear()
    found.on_confirm(spec.Basic.Nack(1))
    found._turn()

    assert any(0 < seconds <= 0.1 for seconds in link.calls)


def test_a_broker_that_confirms_nothing_for_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = publisher()
    link = begun(found)
    found.offer([entry(1)])
    found._turn()
    monkeypatch.setattr(publisher_module, "_NO_CONFIRM_SECONDS", -1.0)
    found._tick()

    assert isinstance(link.error, BrokerUnavailable)


def test_a_drain_without_a_connection_gives_up_at_once() -> None:
    found = publisher()
    assert found.drain(60)
    found.offer([entry(1)])

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
    found._was_open = True
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


def test_a_broker_that_refuses_every_message_is_left_each_time_after_a_longer_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "_REFUSED_SECONDS", 15.0)
    found = publisher()
    begun(found)
    found._refused_since = 100.0

    assert found._reason_to_leave(115.0) is None
    assert found._reason_to_leave(115.1) == "RabbitMQ has refused every message for 15 seconds"
    begun(found)
    assert found._reason_to_leave(1e9) is None
    found._refused_since = 200.0
    assert found._reason_to_leave(230.0) is None
    assert found._reason_to_leave(230.1) == "RabbitMQ has refused every message for 30 seconds"


def test_a_message_that_is_taken_ends_the_count_of_refusals() -> None:
    found = publisher()
    begun(found)
    found.on_confirm(spec.Basic.Nack(delivery_tag=1))
    assert found._refused_since is not None
    found.on_confirm(spec.Basic.Ack(delivery_tag=1))

    assert found._reason_to_leave(1e9) is None


def test_a_broker_that_blocks_publishers_is_not_left_for_what_it_refused_before() -> None:
    found = publisher()
    begun(found)
    found.on_confirm(spec.Basic.Nack(delivery_tag=1))
    found.on_blocked("memory")

    assert found._reason_to_leave(1e9) is None


def test_orders_are_followed_in_the_order_in_which_they_came() -> None:
    found = publisher()
    room = found.room
    found.offer([entry(1), entry(2)])
    found.withdraw([1, 2])
    found.readmit([entry(2)])
    found.withdraw([3])
    found.offer([entry(3)])
    found._turn()

    window = found._delivery.window
    assert [each.number for each in window.take(0)] == [2, 3]
    assert found.room == room
    assert found._incoming.count == 0


def test_a_redriven_entry_whose_confirm_is_not_committed_yet_is_not_published_again() -> None:
    reports: list[Outcomes] = []
    found = publisher(reports.append)
    link = begun(found)
    found.offer([entry(1)])
    found._turn()
    found.on_confirm(spec.Basic.Ack(1))
    found.readmit([entry(1)])  # read back before the commit that settles it
    found._turn()

    assert [list(report.settled) for report in reports] == [[1]]
    assert len(link.written) == 1
    found.committed(1)
    found.readmit([entry(1)])  # it was parked in that commit, and redriven after it
    found._turn()
    assert len(link.written) == 2


def test_what_was_read_before_a_commit_is_taken_in_before_it_is_heard_of() -> None:
    found = publisher()
    link = begun(found)
    found.offer([entry(1)])
    found._turn()
    found.on_confirm(spec.Basic.Ack(1))
    found._turn()
    found.readmit([entry(1)])
    found.committed(1)
    found._turn()

    assert len(link.written) == 1
