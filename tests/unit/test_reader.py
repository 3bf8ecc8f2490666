"""A reader with a scripted changefeed: what it hands over, and when it opens the feed again."""

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Self

import pytest

from replicator import retry
from replicator.domain.feed_element import Change
from replicator.domain.items import FeedBatch, FeedClosed, FeedItem, FeedOpened, SnapshotRead
from replicator.domain.model import Cause, TableName
from replicator.errors import (
    FeedAborted,
    FeedDisconnected,
    FeedLost,
    FeedOverflowed,
    SnapshotStalled,
    SourceRefused,
    SourceUnavailable,
    TableUnusable,
)
from replicator.metrics import Metrics
from replicator.retry import Backoff
from replicator.source import reader as reader_module
from replicator.source.reader import FeedReader
from tests.support.feed_elements import add, initial

INITIALIZING, READY = Change(state="initializing"), Change(state="ready")
A, B = initial({"id": "a"}), add({"id": "b"})
Script = Sequence[list[Change] | Exception | Callable[[], Any]]


class FakeFeed:
    """A changefeed that says what the script says, and nothing more after it."""

    host, table_id, primary_key = "127.0.0.1:28015", "T", "id"

    def __init__(self, script: Script) -> None:
        self._script = list(script)
        self.pings = 0
        self.is_quiet = True
        self.is_closed = self.is_aborted = False

    def read(self, _wait_seconds: float) -> list[Change]:
        if not self._script:
            return []
        said = self._script.pop(0)
        if isinstance(said, Exception):
            raise said
        if callable(said):
            said()
            return []
        return said

    def ping(self) -> bool:
        self.pings += 1
        return self.is_quiet

    def abort(self) -> None:
        self.is_aborted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.is_closed = True


class Bench:
    """A reader whose feeds follow scripts; it is stopped when they are used up."""

    def __init__(self, *scripts: Script | Exception) -> None:
        self.items: list[FeedItem] = []
        self.metrics = Metrics()
        self.queue_sizes: list[int] = []
        self.feeds: list[FakeFeed] = []
        self._scripts = list(scripts)
        self.takes = 10**9
        self.reader = FeedReader(
            7,
            TableName("db", "t"),
            self._open,  # type: ignore[arg-type]
            self,
            self.metrics,
        )

    def put(self, item: FeedItem) -> bool:
        self.items.append(item)
        return len(self.items) <= self.takes

    def _open(self, queue_size: int) -> FakeFeed:
        self.queue_sizes.append(queue_size)
        if not self._scripts:
            self.reader.stop()
            raise SourceUnavailable("the script is over")
        script = self._scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        last = [] if self._scripts else [self.reader.stop]
        self.feeds.append(FakeFeed([*script, *last]))
        return self.feeds[-1]

    def closed(self) -> list[tuple[Cause, str]]:
        return [(i.cause, i.error) for i in self.items if isinstance(i, FeedClosed)]

    def kinds(self) -> list[str]:
        return [type(item).__name__ for item in self.items]


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(0.0001, 0.0002))
    monkeypatch.setattr(retry, "PERMANENT", Backoff(0.0001, 0.0002))
    capfd.readouterr()


def test_a_snapshot_and_changes_are_handed_over_in_feed_order() -> None:
    bench = Bench([[INITIALIZING, A], [A, READY, B], [B]])
    bench.reader.run()

    assert bench.kinds() == [
        "FeedOpened",
        "FeedBatch",
        "FeedBatch",
        "SnapshotRead",
        "FeedBatch",
        "FeedBatch",
        "FeedClosed",
    ]
    assert bench.items[0] == FeedOpened(7, "T", "id", bench.items[0].at)
    batches = [item for item in bench.items if isinstance(item, FeedBatch)]
    assert [list(batch.changes) for batch in batches] == [[A], [A], [B], [B]]
    assert batches[0].size == len(A.new_val)
    assert bench.closed() == [(Cause.START, "")]
    assert bench.feeds[0].is_closed


def test_states_alone_make_no_batch() -> None:
    bench = Bench([[INITIALIZING], [READY]])
    bench.reader.run()

    assert bench.kinds() == ["FeedOpened", "SnapshotRead", "FeedClosed"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (FeedDisconnected("gone"), Cause.DISCONNECT),
        (FeedAborted("table dropped"), Cause.ABORTED),
        (FeedOverflowed("skipped 202", skipped=202), Cause.OVERFLOW),
        (SnapshotStalled("quiet"), Cause.OVERFLOW),
    ],
)
def test_a_lost_feed_is_reported_with_its_cause_and_opened_again(
    error: Exception, cause: Cause
) -> None:
    bench = Bench([[READY], error], [[READY]])
    bench.reader.run()

    assert bench.kinds() == ["FeedOpened", "SnapshotRead", "FeedClosed"] * 2
    assert bench.closed() == [(cause, str(error)), (Cause.START, "")]
    assert bench.items[2].skipped == getattr(error, "skipped", 0)  # type: ignore[union-attr]
    assert all(feed.is_closed for feed in bench.feeds)
    reconnects = bench.metrics.registry.get_sample_value(
        "replicator_reconnects_total", {"peer": "rethinkdb"}
    )
    assert reconnects == 1


def test_the_gap_of_a_lost_connection_begins_when_the_feed_was_last_known_to_be_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    bench = Bench([[READY], [], [], FeedDisconnected("gone")], [[READY]])
    bench.reader.run()

    closed = bench.items[2]
    assert isinstance(closed, FeedClosed)
    # A small batch says that there was no more when it was asked for, while the feed was opened.
    assert (closed.at, closed.complete_at) == (8000, 1000)


def test_a_large_batch_does_not_say_that_the_feed_is_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    monkeypatch.setattr(reader_module, "_SMALL_BATCH", 1)
    # A majority agrees all the time: what counts here is what was read.
    monkeypatch.setattr(reader_module, "_PING_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(FakeFeed, "ping", lambda _feed: False)
    many = [add({"id": 1}), add({"id": 2})]
    overflow = FeedOverflowed("dropped", skipped=3)
    small = [[add({"id": 0})], [add({"id": 1})]]
    bench = Bench([[READY], *small, many, many, overflow], [[READY]])
    bench.reader.run()

    (closed,) = [item for item in bench.items if isinstance(item, FeedClosed) and item.error]
    # The last small batch was asked for when the one before it was received: not before the ping
    # that began at 5000, between the first two.
    assert closed.complete_at == 5000
    batches = [item.complete_at for item in bench.items if isinstance(item, FeedBatch)]
    assert batches == [1000, 5000, 5000, 5000]


def test_an_overflow_opens_the_feed_with_a_larger_queue_up_to_a_limit() -> None:
    overflow = FeedOverflowed("skipped", skipped=1)
    bench = Bench(*([overflow] for _ in range(5)), [[READY]])
    bench.reader.run()

    assert bench.queue_sizes == [100_000, 200_000, 400_000, 800_000, 800_000, 800_000]


def test_a_snapshot_that_goes_quiet_is_given_up_and_waited_for_longer_the_next_time() -> None:
    quiet: list[list[Change]] = [[]]
    bench = Bench([[INITIALIZING, A], *quiet * 15], [[A], *quiet * 29, [A, READY], *quiet * 40])
    bench.reader.run()

    assert [cause for cause, _ in bench.closed()] == [Cause.OVERFLOW, Cause.START]
    assert bench.queue_sizes == [100_000, 200_000]
    assert bench.reader._stall_seconds == 15


def test_a_quiet_feed_is_asked_whether_its_server_is_there() -> None:
    quiet: list[list[Change]] = [[]]
    bench = Bench([[READY], *quiet * 25])
    bench.reader.run()

    assert bench.feeds[0].pings == 2
    assert bench.closed() == [(Cause.START, "")]


def completeness(bench: Bench) -> list[int]:
    return [item.complete_at for item in bench.items if isinstance(item, FeedClosed)]


def test_a_snapshot_does_not_say_that_the_feed_is_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An overflow during it is told late or never, so a gap begins where the feed was opened."""
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    quiet: list[list[Change]] = [[]]
    bench = Bench([[INITIALIZING], [A], [B], *quiet * 15], [])
    bench.reader.run()

    assert bench.feeds[0].pings == 1
    assert completeness(bench)[0] == 1000


def test_an_answer_that_comes_after_elements_does_not_prove_that_nothing_was_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    quiet: list[list[Change]] = [[]]
    bench = Bench([[READY], [B], [B], *quiet * 10, FeedOverflowed("skipped", skipped=1)], [])
    bench._scripts[0][0:0] = [lambda: setattr(bench.feeds[0], "is_quiet", False)]  # type: ignore[index]
    bench.reader.run()

    assert bench.feeds[0].pings == 1
    # The second batch was asked for when the first was read, by the read that began then.
    assert completeness(bench)[0] == 6000


def test_a_busy_feed_is_asked_too_and_is_complete_up_to_the_last_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it says may come from some shards only, while another one has lost its majority."""
    instants = [0]
    asked: list[int] = []

    def now_us() -> int:
        instants.append(instants[-1] + 1000)
        return instants[-1]

    def ping(_feed: FakeFeed) -> bool:
        asked.append(instants[-1])
        if len(asked) == 3:
            raise FeedAborted("the primary replica is not available")
        return False

    ticks = itertools.count()
    monkeypatch.setattr(reader_module, "now_us", now_us)
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(FakeFeed, "ping", ping)
    monkeypatch.setattr(
        reader_module, "_PING_BUSY_SECONDS", 10.0
    )  # ticks, of which each turn has some
    bench = Bench([[READY], *[[B]] * 30], [])
    bench.reader.run()

    assert len(asked) == 3
    assert asked[1] + 2000 <= asked[2], "it was heard in between"
    assert bench.closed()[0] == (Cause.ABORTED, "the primary replica is not available")
    assert completeness(bench)[0] == asked[1]


def test_what_was_read_is_handed_over_before_a_ping_that_may_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_feed: FakeFeed) -> bool:
        raise FeedDisconnected("the connection was lost")

    monkeypatch.setattr(reader_module, "_PING_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(FakeFeed, "ping", fail)
    bench = Bench([[READY, B]], [])
    bench.reader.run()

    assert bench.kinds()[:4] == ["FeedOpened", "SnapshotRead", "FeedBatch", "FeedClosed"]


def test_only_the_last_part_of_a_batch_says_that_everything_was_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process may die between the parts, and what is committed then must not say so."""
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    monkeypatch.setattr(reader_module, "_PING_BUSY_SECONDS", 0.0)
    bench = Bench([[INITIALIZING], [A], [A, READY, B], FeedDisconnected("gone")], [])
    bench.reader.run()

    parts = [item for item in bench.items[2:] if isinstance(item, FeedBatch | SnapshotRead)]
    assert [part.complete_at for part in parts] == [1000, 1000, 5000]


def test_a_feed_that_is_aborted_between_two_questions_is_complete_up_to_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    bench = Bench([[READY], [B], [B], FeedAborted("the primary replica has moved")], [])
    bench.reader.run()

    assert bench.feeds[0].pings == 0
    assert completeness(bench)[0] == 1000


def test_a_permanent_error_at_start_ends_the_thread() -> None:
    bench = Bench(SourceRefused("wrong password"))

    with pytest.raises(SourceRefused):
        bench.reader.run()
    assert bench.kinds() == ["FeedClosed"]


def test_a_permanent_error_later_is_retried() -> None:
    bench = Bench([[READY], SourceRefused("revoked")], TableUnusable("no table"), [[READY]])
    bench.reader.run()

    assert [error for _, error in bench.closed()] == ["revoked", "no table", ""]


def test_an_error_that_stays_the_same_is_reported_once() -> None:
    refused = [SourceUnavailable("refused") for _ in range(5)]
    bench = Bench(*refused, [[READY]])
    bench.reader.run()

    assert bench.closed() == [(Cause.DISCONNECT, "refused"), (Cause.START, "")]


def test_the_same_loss_twice_is_reported_twice_since_the_feed_was_open_between() -> None:
    bench = Bench([FeedAborted("aborted")], [FeedAborted("aborted")], [[READY]])
    bench.reader.run()

    assert bench.kinds()[:4] == ["FeedOpened", "FeedClosed"] * 2


def test_a_requested_resync_opens_the_feed_again() -> None:
    bench = Bench([[READY]], [[READY]])
    bench._scripts[0] = [[READY], bench.reader.request_resync]
    bench.reader.run()

    assert [cause for cause, _ in bench.closed()] == [Cause.REQUESTED, Cause.START]


def test_a_store_that_takes_no_more_ends_the_reader() -> None:
    bench = Bench([[A], [A], [A], FeedAborted("never read")], [[READY]])
    bench.takes = 2
    bench.reader.run()

    assert bench.kinds() == ["FeedOpened", "FeedBatch", "FeedBatch", "FeedClosed"]


def test_a_stop_ends_the_open_feed_and_is_no_loss() -> None:
    bench = Bench([[READY]], [[READY]])

    def stop_and_break() -> None:
        bench.reader.stop()
        raise FeedDisconnected("shut by us")

    bench._scripts[0] = [[READY], stop_and_break]
    bench.reader.run()

    assert bench.feeds[0].is_aborted
    assert bench.closed() == [(Cause.START, "")]
    assert len(bench.feeds) == 1


def test_a_stop_during_the_wait_makes_no_further_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "TRANSIENT", Backoff(60.0, 600.0))
    bench = Bench(SourceUnavailable("refused"), [[READY]])
    real_put = bench.put

    def stop_when_lost(item: FeedItem) -> bool:
        if isinstance(item, FeedClosed):
            bench.reader.stop()
        return real_put(item)

    monkeypatch.setattr(bench, "put", stop_when_lost)
    bench.reader.run()

    assert len(bench.queue_sizes) == 1
    assert bench.closed()[-1] == (Cause.START, "")


def test_a_permanent_error_while_stopping_is_not_an_error() -> None:
    bench = Bench([[READY]], [[READY]])

    def stop_and_refuse() -> None:
        bench.reader.stop()
        raise SourceRefused("revoked")

    bench._scripts[0] = [[READY], stop_and_refuse]
    bench.reader.run()

    assert bench.closed() == [(Cause.START, "")]


def test_an_unexpected_error_ends_the_thread_and_closes_the_feed_for_the_store() -> None:
    bench = Bench([[READY], RuntimeError("a defect")], [[READY]])

    with pytest.raises(RuntimeError, match="a defect"):
        bench.reader.run()
    assert bench.kinds() == ["FeedOpened", "SnapshotRead", "FeedClosed"]
    assert not bench.reader.is_connected


def test_every_open_is_followed_by_a_close_whatever_happens() -> None:
    bench = Bench(
        SourceUnavailable("refused"),
        [FeedAborted("aborted")],
        SourceUnavailable("refused"),
        [[A], FeedDisconnected("gone")],
        [[A, READY], SourceRefused("revoked")],
        TableUnusable("gone"),
        [[READY]],
    )
    bench.reader.run()

    is_open = False
    for item in bench.items:
        if isinstance(item, FeedOpened):
            assert not is_open
            is_open = True
        elif isinstance(item, FeedClosed):
            is_open = False
        else:
            assert is_open
            assert isinstance(item, FeedBatch | SnapshotRead)
    assert not is_open


@pytest.mark.parametrize("loss", [FeedDisconnected("gone"), FeedOverflowed("dropped", skipped=3)])
def test_a_busy_feed_is_complete_up_to_the_last_answer_however_it_is_lost(
    monkeypatch: pytest.MonkeyPatch, loss: FeedLost
) -> None:
    """One of its shards may have been silent since then, while this one was busy."""
    clock = iter(range(1000, 100_000, 1000))
    monkeypatch.setattr(reader_module, "now_us", lambda: next(clock))
    small = [[add({"id": number})] for number in range(5)]
    bench = Bench([[READY], *small, loss], [[READY]])
    bench.reader.run()

    (closed,) = [item for item in bench.items if isinstance(item, FeedClosed) and item.error]
    batches = [item for item in bench.items if isinstance(item, FeedBatch)]
    # Opened at 1000, which is the last that a majority had a part in.
    assert closed.complete_at == 1000
    assert [batch.complete_at for batch in batches] == [1000] * 5


def test_a_feed_with_full_batches_only_is_asked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = itertools.count(0, 60)
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    monkeypatch.setattr(reader_module, "_SMALL_BATCH", 1)
    many = [add({"id": 1}), add({"id": 2})]
    bench = Bench([[READY], *([many] * 5)])
    bench.reader.run()

    assert bench.feeds[0].pings == 6
