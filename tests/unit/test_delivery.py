"""What becomes of published messages: policies, refusals, poison, the books."""

from collections.abc import Sequence

import pytest
from pika import frame, spec

from replicator.domain.model import Entry, Failure, Op, Origin, Outcomes, Returned, TableName
from replicator.domain.routing import RoutingKey
from replicator.metrics import Metrics
from replicator.publisher import delivery as delivery_module
from replicator.publisher.broker import Publication
from replicator.publisher.delivery import Delivery
from replicator.publisher.frames import PublishFrames

OUTBOX = "abcdefg2"
NAMES = {1: TableName("db", "t"), 2: TableName("db", "l" * 60)}
NO_ROUTE = Returned(312, "NO_ROUTE")


def entry(number: int, *, feed_id: int = 1, key: str = "", op: Op = Op.UPDATE) -> Entry:
    return Entry(number, feed_id, key or str(number), op, Origin.FEED, b"{}", 1_000_000)


class Bench:
    """A delivery with a fake report, a fake clock, and the broker's side of the channel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **publication: object) -> None:
        self.now = 100.0
        monkeypatch.setattr(delivery_module.time, "monotonic", lambda: self.now)
        self.metrics = Metrics()
        self.reported: list[Outcomes] = []
        self.delivery = Delivery(
            Publication(**publication),  # type: ignore[arg-type]
            "rethinkdb",
            names=NAMES,
            report=self.reported.append,
            metrics=self.metrics,
            clock=lambda: self.now,
        )
        self.frames = PublishFrames(
            channel=1, frame_max=131072, outbox_id=OUTBOX, is_persistent=True
        )

    def publish(self, *entries: Entry) -> list[tuple[str, int]]:
        """Accept entries and return the routing keys and numbers of what is then sent."""
        self.delivery.accept(entries, self.delivery.window.reading)
        return self.sent()

    def sent(self) -> list[tuple[str, int]]:
        joined = b"".join(self.delivery.take(self.frames))
        found: list[tuple[str, int]] = []
        key = ""
        while joined:
            used, decoded = frame.decode_frame(joined)
            joined = joined[used:]
            if isinstance(decoded, frame.Method):
                assert decoded.method.mandatory
                key = decoded.method.routing_key
            elif isinstance(decoded, frame.Header):
                found.append((key, int(decoded.properties.message_id.partition("-")[2])))
        return found

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.delivery.on_confirm(spec.Basic.Ack(tag, multiple))

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        self.delivery.on_confirm(spec.Basic.Nack(tag, multiple))

    def hand_back(self, number: int) -> None:
        self.delivery.on_return(f"{OUTBOX}-{number}", NO_ROUTE)

    def flush(self) -> Outcomes:
        """Return what was reported since the last time, as one."""
        self.delivery.flush()
        reported, self.reported[:] = list(self.reported), []
        return Outcomes(
            [number for each in reported for number in each.settled],
            sum(each.settled_bytes for each in reported),
            [failure for each in reported for failure in each.failed],
            [failure for each in reported for failure in each.parked],
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def numbers(failures: Sequence[Failure]) -> list[tuple[int, str]]:
    return [(failure.number, failure.reason) for failure in failures]


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


def test_a_lone_message_that_closes_the_channel_is_parked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1, key="a"), entry(2, key="a"))
    bench.delivery.suspect("message size 20000000 is larger than configured max size 16777216")

    assert numbers(bench.flush().parked) == [(1, "too_large")]
    assert bench.publish(entry(2, key="a")) == [("t.update", 2)]
    capfd.readouterr()


def test_a_message_refused_for_another_reason_is_parked_as_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1))
    bench.delivery.suspect("PRECONDITION_FAILED")

    assert numbers(bench.flush().parked) == [(1, "refused")]
    capfd.readouterr()


class Outbox:
    """What the store does with reports and readings, for a search that takes several channels."""

    def __init__(self, bench: Bench, entries: Sequence[Entry]) -> None:
        self.bench = bench
        self.pending = {each.number: each for each in entries}
        self.settled: list[int] = []
        self.parked: list[tuple[int, str]] = []

    def commit(self) -> None:
        outcomes = self.bench.flush()
        self.settled += outcomes.settled
        self.parked += numbers(outcomes.parked)
        for number in [*outcomes.settled, *(number for number, _ in numbers(outcomes.parked))]:
            del self.pending[number]

    def read_again(self) -> None:
        self.bench.delivery.accept(list(self.pending.values()), self.bench.delivery.window.reading)


@pytest.mark.parametrize("documents", [1500, 750, 40])
@pytest.mark.parametrize("poison", [1, 2, 17, 500, 999, 1000])
def test_the_poison_among_a_thousand_messages_is_found_and_nothing_else_is_parked(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    poison: int,
    documents: int,
) -> None:
    bench = Bench(monkeypatch, window=1000)
    entries = [entry(number, key=str(number % documents)) for number in range(1, 1501)]
    outbox = Outbox(bench, entries)
    outbox.read_again()
    rounds = closures = next_tag = 0
    while not bench.delivery.window.is_empty:
        rounds += 1
        assert rounds < 1600, "no end"
        sent = [number for _, number in bench.sent()]
        if poison in sent:
            # The broker confirms some of what came before, and closes the channel.
            closures += 1
            confirmed = sent.index(poison) // 2
            if confirmed:
                bench.ack(next_tag + confirmed, multiple=True)
            bench.delivery.suspect("message is too large")
            bench.delivery.lost()  # the connection ends as well
            outbox.commit()
            outbox.read_again()
            next_tag = 0
        else:
            next_tag += len(sent)
            bench.ack(next_tag, multiple=True)
        outbox.commit()

    assert outbox.parked == [(poison, "too_large")]
    assert sorted(outbox.settled) == [number for number in range(1, 1501) if number != poison]
    assert closures <= 4
    assert bench.delivery.window.cap is None
    capfd.readouterr()


def test_a_channel_that_closes_with_nothing_in_flight_has_no_suspect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.delivery.suspect("PRECONDITION_FAILED")

    assert bench.reported == []
    assert bench.delivery.window.cap is None


def test_the_cap_is_lifted_once_all_suspects_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    entries = [entry(number) for number in range(1, 65)]
    bench.publish(*entries[:32])
    bench.delivery.suspect("PRECONDITION_FAILED")
    assert bench.delivery.window.cap == 2
    bench.delivery.accept(entries, bench.delivery.window.reading)
    for tag in range(2, 33, 2):
        assert len(bench.sent()) == 2
        assert bench.delivery.window.cap == 2
        bench.ack(tag, multiple=True)
        bench.flush()

    assert bench.delivery.window.cap is None
    assert len(bench.sent()) == 32


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


@pytest.mark.parametrize("poison", [1, 2])
def test_what_an_operator_parked_in_flight_is_suspected_like_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], poison: int
) -> None:
    bench = Bench(monkeypatch)
    bench.publish(entry(1), entry(2))
    bench.delivery.forget()  # an operator has parked 1
    bench.delivery.suspect("PRECONDITION_FAILED - message size 9 is larger")
    assert bench.flush().parked == []
    assert bench.publish(entry(2)) == [("t.update", 2)]
    if poison == 2:
        bench.delivery.suspect("PRECONDITION_FAILED - message size 9 is larger")
        assert numbers(bench.flush().parked) == [(2, "too_large")]
    else:
        bench.ack(1)
        assert bench.flush().settled == [2]

    assert bench.sent() == []
    assert bench.delivery.window.cap is None
    capfd.readouterr()
