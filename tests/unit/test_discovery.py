"""Which tables there are, decided from lists that a test makes."""

import contextlib
import threading
from collections.abc import Collection, Iterator

import pytest

from replicator import retry
from replicator.domain.model import TableName
from replicator.errors import FeedDisconnected, SourceRefused
from replicator.metrics import Metrics
from replicator.retry import Backoff
from replicator.source import discovery as discovery_module
from replicator.source.discovery import Discovery
from tests.support.wait import wait_until

A, B, OTHER = TableName("shop", "a"), TableName("shop", "b"), TableName("blog", "a")


class FakeTables:
    """A list of tables and the changes that its feed tells of."""

    def __init__(self, *names: TableName) -> None:
        self.listed = frozenset(names)
        self.known = frozenset({"shop", "blog"})
        self.has_changed = False
        self.reads = 0
        self.error: Exception | None = None
        self.aborted = threading.Event()

    def changed(self, wait_seconds: float) -> bool:
        if self.error is not None:
            raise self.error
        if wait_seconds and self.aborted.wait(0.01):
            raise FeedDisconnected("shut")
        was, self.has_changed = self.has_changed, False
        return was

    def names(self) -> frozenset[TableName]:
        self.reads += 1
        return self.listed

    def databases(self) -> frozenset[str]:
        return self.known

    def abort(self) -> None:
        self.aborted.set()


class Bench:
    """A discovery of one database and what it told."""

    def __init__(self, *names: TableName, known: Collection[TableName] = ()) -> None:
        self.tables = FakeTables(*names)
        self.told: list[tuple[set[TableName], set[TableName]]] = []
        self.metrics = Metrics()
        self.opened = 0
        self.refusal: Exception | None = None
        self.discovery = Discovery(["shop"], self._open, self._take, self.metrics, known=known)
        self.now = 1000.0

    @contextlib.contextmanager
    def _open(self) -> Iterator[FakeTables]:
        if self.refusal is not None:
            raise self.refusal
        self.opened += 1
        yield self.tables

    def _take(self, found: Collection[TableName], away: Collection[TableName]) -> None:
        self.told.append((set(found), set(away)))

    def step(self, *names: TableName, after: float = 1.0) -> bool:
        self.tables.has_changed = self.tables.listed != frozenset(names)
        self.tables.listed = frozenset(names)
        self.now += after
        return self.discovery.step(self.tables, self.now)


def test_the_first_list_is_told_whatever_the_feed_says() -> None:
    bench = Bench()

    assert bench.step(A, OTHER)
    assert bench.told == [({A}, set())]
    assert bench.discovery.status.is_current


def test_a_database_that_does_not_exist_is_warned_of_once_until_it_does(
    capfd: pytest.CaptureFixture[str],
) -> None:
    bench = Bench()
    bench.tables.known = frozenset({"blog"})
    bench.step(OTHER)
    bench.step(OTHER, after=60)
    assert "".join(capfd.readouterr()).count("there is no such database") == 1
    bench.tables.known = frozenset({"shop", "blog"})
    bench.step(OTHER, after=60)
    assert "no such database" not in "".join(capfd.readouterr())
    bench.tables.known = frozenset({"blog"})
    bench.step(OTHER, after=60)
    assert "".join(capfd.readouterr()).count("there is no such database") == 1


def test_a_quiet_feed_leaves_the_list_alone_for_half_a_minute() -> None:
    bench = Bench()
    bench.step(A)

    assert not bench.step(A)
    assert not bench.step(A, after=20)
    assert bench.step(A, after=10)
    assert bench.tables.reads == 2


def test_a_table_that_appears_is_told_at_once() -> None:
    bench = Bench()
    bench.step(A)
    bench.step(A, B)

    assert bench.told[-1] == ({A, B}, set())


def test_a_table_is_gone_only_after_it_was_away_for_a_while() -> None:
    bench = Bench()
    bench.step(A, B)
    bench.step(A)
    assert bench.told[-1] == ({A}, {B})
    bench.step(A, after=4.5)
    assert bench.told[-1] == ({A}, {B})
    bench.step(A, after=1)

    assert bench.told[-1] == ({A}, set())


def test_a_table_that_comes_back_in_time_was_never_gone() -> None:
    bench = Bench()
    bench.step(A, B)
    bench.step(A, after=1)
    bench.step(A, B, after=4)
    bench.step(A, after=4)

    assert bench.told[-1] == ({A}, {B})


def test_one_look_after_a_long_standstill_takes_nothing_for_gone() -> None:
    bench = Bench()
    bench.step(A, B)
    bench.step(A, after=3600)

    assert bench.told[-1] == ({A}, {B})


def test_an_empty_list_is_believed_only_after_a_minute_of_it() -> None:
    bench = Bench()
    bench.step(A, B)
    for _ in range(60):
        bench.step(OTHER)
    assert all(told == (set(), {A, B}) for told in bench.told[1:])
    bench.step(OTHER)

    assert bench.told[-1] == (set(), set())


def test_a_table_of_a_database_that_is_not_seen_is_missed_for_a_minute() -> None:
    bench = Bench()
    bench.step(A, B)
    bench.tables.known = frozenset({"blog"})
    for _ in range(30):
        bench.step(A)

    assert bench.told[-1] == ({A}, {B})


def test_another_connection_begins_to_count_again(impatient: None) -> None:
    del impatient
    bench = Bench(A, B)
    with running(bench):
        wait_until(lambda: bool(bench.told), 10, "the first list")
        bench.tables.listed = frozenset({A})
        bench.discovery._away[B] = discovery_module._Away(0.0, looks=100)
        bench.tables.error = FeedDisconnected("lost")
        wait_until(lambda: not bench.discovery.status.is_current, 10, "the loss")
        before = len(bench.told)
        bench.tables.error = None
        wait_until(lambda: len(bench.told) > before, 10, "the list again")

    assert bench.told[before] == ({A}, {B})


def test_what_was_there_when_the_last_process_ended_is_missed_too() -> None:
    bench = Bench(known=[A, B])
    bench.step(A)
    assert bench.told == [({A}, {B})]
    bench.step(A, after=3)
    bench.step(A, after=3)

    assert bench.told[-1] == ({A}, set())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.01, 0.02))
    monkeypatch.setattr(retry, "PERMANENT", Backoff(0.01, 0.02))


@contextlib.contextmanager
def running(bench: Bench) -> Iterator[list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            bench.discovery.run()
        except SourceRefused as err:
            errors.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        bench.discovery.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_a_refusal_ends_it_before_the_list_was_ever_read(impatient: None) -> None:
    del impatient
    bench = Bench()
    bench.refusal = SourceRefused("no permission")
    with running(bench) as errors:
        wait_until(lambda: bool(errors), 10, "the refusal")

    assert bench.opened == 0


def test_a_refusal_that_comes_later_is_retried(impatient: None) -> None:
    del impatient
    bench = Bench(A)
    with running(bench) as errors:
        wait_until(lambda: bench.discovery.status.is_current, 10, "the first list")
        bench.refusal = SourceRefused("no permission")
        bench.tables.error = FeedDisconnected("lost")
        wait_until(
            lambda: bench.discovery.status.error == "no permission", 10, "the refusal in the status"
        )
        bench.tables.error = bench.refusal = None
        wait_until(lambda: bench.discovery.status.is_current, 10, "the list again")

    assert errors == []
    assert bench.opened >= 2
    assert bench.discovery.status.error is None or not bench.discovery.status.is_current
    reconnects = bench.metrics.registry.get_sample_value(
        "replicator_reconnects_total", {"peer": "rethinkdb"}
    )
    assert reconnects == bench.opened - 1


def test_a_lost_connection_drops_no_table(impatient: None) -> None:
    del impatient
    bench = Bench(A, B)
    with running(bench):
        wait_until(lambda: bool(bench.told), 10, "the first list")
        bench.tables.error = FeedDisconnected("lost")
        wait_until(lambda: not bench.discovery.status.is_current, 10, "the loss")
        bench.tables.error = None
        wait_until(lambda: bench.discovery.status.is_current, 10, "the list again")

    assert all(told == ({A, B}, set()) for told in bench.told)
