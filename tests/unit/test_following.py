"""Readers that start and end while the service runs, without any server."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from replicator import following as following_module
from replicator.config import load_settings
from replicator.domain.feed import Feed
from replicator.domain.items import FeedClosed, Item, TableDropped, TableFound
from replicator.domain.model import TableName
from replicator.domain.reconcile import TableRules
from replicator.errors import SourceUnavailable, TableUnusable
from replicator.following import Following
from replicator.metrics import Metrics
from tests.support.wait import wait_until

A, B, NAMED = TableName("shop", "a"), TableName("shop", "b"), TableName("blog", "posts")


class Bench:
    """A following of ``shop.*`` and ``blog.posts`` whose feeds cannot be opened."""

    def __init__(self) -> None:
        settings = load_settings(environ={"REPLICATOR_TABLES": "shop.*,blog.posts"})
        self.items: list[Item] = []
        self.ended = threading.Event()
        self.following = Following(settings, self, Metrics(), self.ended.set)

    def put(self, item: Item) -> bool:
        self.items.append(item)
        return True

    def make_feeds(self) -> None:
        """Do what the store does with tables that were found."""
        for number, item in enumerate(list(self.items), 1):
            if isinstance(item, TableFound):
                self.following.follow(feed(number, item.table.name))

    def names(self) -> list[TableName]:
        return [reader.name for reader in self.following.readers]


def feed(number: int, name: TableName) -> Feed:
    return Feed(number, name, TableRules("id"), False, "{}", False)  # noqa: FBT003 -- its fields


@pytest.fixture
def error() -> list[Exception]:
    """What opening a feed raises."""
    return [SourceUnavailable("nobody answers")]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, error: list[Exception]) -> Iterator[Bench]:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise error[0]

    monkeypatch.setattr(following_module, "open_changefeed", refuse)
    made = Bench()
    made.following.start()
    yield made
    made.following.stop(10)
    assert not any(worker.thread.is_alive() for worker in made.following.workers())


def test_a_table_that_is_there_gets_a_reader_when_its_feed_is_made(bench: Bench) -> None:
    bench.following.take([A], [])
    (found,) = bench.items
    assert isinstance(found, TableFound)
    assert (found.table.name, found.table.envelope) == (A, "change")
    assert bench.names() == []

    bench.make_feeds()
    bench.make_feeds()

    assert bench.names() == [A]
    assert all(worker.thread.is_alive() for worker in bench.following.workers())


def test_a_table_that_is_gone_loses_its_reader_before_it_is_said_to_be_dropped(
    bench: Bench,
) -> None:
    bench.following.take([A, B], [])
    bench.make_feeds()
    (reader,) = [r for r in bench.following.readers if r.name == A]
    bench.following.take([B], [])

    assert bench.names() == [B]
    assert not reader.is_connected
    *_, closed, dropped = bench.items
    assert isinstance(closed, FeedClosed)
    assert isinstance(dropped, TableDropped)
    assert dropped.name == A
    # Its thread has ended, and that ends no service.
    assert all(worker.thread.is_alive() for worker in bench.following.workers())


def test_a_table_that_is_gone_before_its_feed_was_made_gets_no_reader(bench: Bench) -> None:
    bench.following.take([A], [])
    bench.following.take([], [])
    bench.make_feeds()

    assert bench.names() == []
    assert [type(item) for item in bench.items] == [TableFound, TableDropped]


def test_a_table_that_comes_back_before_its_feed_was_made_waits_for_its_own_feed(
    bench: Bench,
) -> None:
    """The store is told of its end only after the first feed: a reader would be ahead of that."""
    bench.following.take([A], [])
    bench.following.take([], [])
    bench.following.take([A], [])
    assert [type(item) for item in bench.items] == [TableFound, TableDropped, TableFound]

    bench.following.follow(feed(1, A))
    assert bench.names() == []
    bench.following.follow(feed(1, A))
    assert bench.names() == [A]


def test_nothing_is_done_about_a_table_that_may_come_back(bench: Bench) -> None:
    bench.following.take([A], [])
    bench.make_feeds()
    before = list(bench.items)
    bench.following.take([], [A])
    bench.following.take([A], [])

    assert bench.names() == [A]
    assert [item for item in bench.items if item not in before] == []


def test_a_table_that_the_settings_name_is_never_found_nor_dropped(bench: Bench) -> None:
    bench.following.follow(feed(1, NAMED))
    bench.following.take([NAMED], [])
    bench.following.take([], [])

    assert bench.names() == [NAMED]
    assert not any(isinstance(item, TableFound | TableDropped) for item in bench.items)


def test_a_table_of_a_database_that_cannot_be_used_ends_nothing(
    bench: Bench, error: list[Exception]
) -> None:
    error[0] = TableUnusable("it is gone")
    bench.following.take([A], [])
    bench.make_feeds()
    wait_until(
        lambda: any(isinstance(item, FeedClosed) for item in bench.items), 20, "the loss is told"
    )

    assert all(worker.thread.is_alive() for worker in bench.following.workers())


def test_a_named_table_that_cannot_be_used_ends_the_service(
    bench: Bench, error: list[Exception]
) -> None:
    error[0] = TableUnusable("there is none")
    bench.following.follow(feed(1, NAMED))
    assert bench.ended.wait(20)

    (worker,) = bench.following.workers()
    worker.thread.join(20)
    assert isinstance(worker.error, TableUnusable)


def test_a_resync_is_asked_of_the_reader_there_is(bench: Bench) -> None:
    bench.following.take([A], [])
    bench.make_feeds()

    assert bench.following.request_resync(A)
    assert not bench.following.request_resync(B)
