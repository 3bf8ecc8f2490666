"""What becomes of published messages: policies, refusals, the books."""

import pytest
from pika import frame

from replicator.domain.model import Entry, Op, Origin, Outcomes, TableName
from replicator.domain.routing import RoutingKey
from tests.support.delivering import NAMES, Bench, entry, numbers


def test_confirmed_entries_are_reported_and_counted_once_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    assert bench.publish(entry(1), entry(2, op=Op.CREATE)) == [("t.update", 1), ("t.create", 2)]
    bench.now += 2
    bench.ack(2, multiple=True)

    assert bench.flush() == Outcomes([1, 2], 4, [], [])
    assert bench.flush() == Outcomes([], 0, [], [])
    assert bench.value("replicator_entries_confirmed_total", table="db.t", op="create") == 1
    assert bench.value("replicator_publish_outcomes_total", outcome="confirmed") == 2
    assert bench.value("replicator_confirm_seconds_sum") == 4
    assert bench.value("replicator_delivery_seconds_sum") == 2 * (102 - 1)
    assert bench.value("replicator_in_flight") == 0


def test_an_unroutable_message_is_dropped_counted_and_settled(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1))
    bench.hand_back(1)
    bench.ack(1)

    assert bench.flush() == Outcomes([1], 2, [], [])
    assert bench.value("replicator_unroutable_total", table="db.t") == 1
    assert bench.value("replicator_publish_outcomes_total", outcome="returned") == 1
    assert bench.value("replicator_publish_outcomes_total", outcome="confirmed") == 0
    assert bench.value("replicator_delivery_seconds_count") == 0
    capfd.readouterr()


def test_an_unroutable_message_is_parked_and_its_document_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch, on_unroutable="park")
    bench.publish(entry(1, key="a"), entry(2, key="a"))
    bench.hand_back(1)
    bench.ack(1)

    outcomes = bench.flush()
    assert (list(outcomes.settled), numbers(outcomes.parked)) == ([], [(1, "unroutable")])
    assert bench.sent() == [("t.update", 2)]
    capfd.readouterr()


def test_an_unroutable_message_is_held_and_its_document_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch, on_unroutable="hold")
    bench.publish(entry(1, key="a"), entry(2, key="a"))
    bench.hand_back(1)
    bench.ack(1)
    outcomes = bench.flush()
    assert (outcomes.settled, numbers(outcomes.failed)) == ([], [(1, "unroutable")])
    assert bench.sent() == []
    bench.now += 10
    assert bench.sent() == [("t.update", 1)]
    bench.ack(2)

    assert bench.flush().settled == [1]
    assert bench.sent() == [("t.update", 2)]
    capfd.readouterr()


def test_unroutable_messages_are_logged_at_most_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    logged: list[str] = []
    monkeypatch.setattr(
        bench.delivery, "_log", type("Log", (), {"warning": lambda _s, t, **_k: logged.append(t)})()
    )
    for number in range(1, 5):
        bench.publish(entry(number))
        bench.hand_back(number)
        bench.ack(number)
        bench.now += 25

    assert len(logged) == 2


def test_a_nack_is_retried_and_recorded_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1, key="a"), entry(2, key="a"))
    recorded: list[int] = []
    for tag in range(1, 17):
        bench.nack(tag)
        recorded += [failure.attempts for failure in bench.flush().failed]
        assert bench.sent() == []
        bench.now += 10
        assert bench.sent() == [("t.update", 1)]

    assert sum(recorded) == 16
    assert len(recorded) == 5
    assert bench.value("replicator_publish_outcomes_total", outcome="nacked") == 16


def test_a_routing_key_too_long_for_amqp_is_parked_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = RoutingKey("x" * 200 + ".{table}.{op}")
    bench = Bench(monkeypatch, routing_keys=dict.fromkeys(NAMES.values(), long))
    sent = bench.publish(entry(1), entry(2, feed_id=2), entry(3))

    assert [number for _, number in sent] == [1, 3]
    assert numbers(bench.flush().parked) == [(2, "routing_key_too_long")]


def test_full_headers_are_published_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, has_full_headers=True)
    bench.delivery.accept([entry(1)], 1)

    assert b"x-replicator-captured-at" in b"".join(bench.delivery.take(bench.frames))


def test_large_batches_are_cut_into_several_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    large = [Entry(n, 1, str(n), Op.CREATE, Origin.FEED, b"x" * 100_000, 0) for n in range(1, 6)]
    bench.delivery.accept(large, 1)

    assert len(bench.delivery.take(bench.frames)) == 3


def test_messages_go_to_the_exchange_of_their_table_or_of_its_whole_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {1: TableName("db", "t"), 2: TableName("db", "u"), 3: TableName("other", "t")}
    bench = Bench(
        monkeypatch,
        exchanges={names[1]: "mine", TableName("db", "*"): "all"},
        routing_keys={TableName("db", "*"): RoutingKey("{db}.{table}")},
    )
    monkeypatch.setattr(bench.delivery.addresses, "_names", names)
    bench.delivery.accept([entry(number, feed_id=number) for number in names], 1)
    joined = b"".join(bench.delivery.take(bench.frames))

    sent: list[tuple[str, str]] = []
    while joined:
        used, decoded = frame.decode_frame(joined)
        joined = joined[used:]
        if isinstance(decoded, frame.Method):
            sent.append((decoded.method.exchange, decoded.method.routing_key))
    assert sent == [("mine", "db.t"), ("all", "db.u"), ("rethinkdb", "t.update")]


def test_publishing_is_tried_once_on_each_exchange_and_with_no_invented_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = dict.fromkeys(
        [TableName("db", "a"), TableName("db", "b"), TableName("db", "c"), TableName("x", "*")],
        RoutingKey("{table}.{op}"),
    )
    bench = Bench(
        monkeypatch,
        routing_keys=keys,
        exchanges={TableName("db", "c"): "third", TableName("x", "*"): "of many"},
    )

    assert bench.delivery.addresses.probes() == [("rethinkdb", "a.update"), ("third", "c.update")]


def test_what_was_settled_is_reported_before_a_new_reading_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1), entry(2))
    bench.ack(1)
    bench.delivery.forget()

    assert bench.reported == [Outcomes([1], 2, [], []), Outcomes(reading=2)]
    assert bench.publish(entry(2)) == []


def test_what_is_parked_with_a_lost_channel_is_reported_before_the_next_reading(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1), entry(2))
    bench.ack(1)
    bench.delivery.suspect("message size 9 is larger")
    bench.delivery.lost()
    bench.delivery.begin_reading()

    settled, parked, asked = bench.reported
    assert settled == Outcomes([1], 2, [], [])
    assert numbers(parked.parked) == [(2, "too_large")]
    assert asked == Outcomes(reading=bench.delivery.window.reading)
    capfd.readouterr()


def test_entries_of_a_reading_that_is_over_are_neither_taken_nor_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = RoutingKey("x" * 200 + ".{table}.{op}")
    bench = Bench(monkeypatch, routing_keys={NAMES[2]: long})
    bench.delivery.forget()
    bench.delivery.accept([entry(1), entry(2, feed_id=2)], 1)

    assert bench.flush() == Outcomes([], 0, [], [])
    assert bench.sent() == []


def test_a_nack_of_an_orphan_is_counted_and_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been parked by an operator: its record is closed."""
    bench = Bench(monkeypatch)
    bench.publish(entry(1), entry(2))
    bench.delivery.forget()
    bench.publish(entry(2))
    bench.nack(2, multiple=True)

    assert numbers(bench.flush().failed) == [(2, "nacked")]
    assert bench.value("replicator_publish_outcomes_total", outcome="nacked") == 2
    bench.now += 100
    assert bench.sent() == [("t.update", 2)]


@pytest.mark.parametrize(
    ("policy", "settled", "parked"),
    [("drop", [1], []), ("hold", [], []), ("park", [], [(1, "unroutable")])],
)
def test_the_policy_is_followed_for_an_orphan_that_no_queue_takes(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    policy: str,
    settled: list[int],
    parked: list[tuple[int, str]],
) -> None:
    """Where an operator has parked or discarded it, the outbox does nothing with these reports."""
    bench = Bench(monkeypatch, on_unroutable=policy)
    bench.publish(entry(1, key="a"), entry(2, key="a"))
    bench.hand_back(1)
    bench.delivery.forget()
    bench.ack(1)

    outcomes = bench.flush()
    assert (outcomes.settled, numbers(outcomes.parked)) == (settled, parked)
    assert outcomes.failed == []
    # Read before the report was committed: what was answered for good is not sent again.
    again = bench.publish(entry(1, key="a"), entry(2, key="a"))
    assert again == [("t.update", 1 if policy == "hold" else 2)]
    capfd.readouterr()
