"""The search for a message that RabbitMQ does not take, and closes the channel for."""

from collections.abc import Sequence

import pytest

from replicator.domain.model import Entry
from tests.support.delivering import Bench, entry, numbers


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
