"""Batches of an open changefeed, and what the driver's errors mean, with a fake cursor."""

import socket
from collections import deque
from typing import Any

import pytest
from rethinkdb import errors as reql

from replicator.domain.feed_element import Change
from replicator.domain.model import TableName
from replicator.errors import (
    FeedAborted,
    FeedDisconnected,
    FeedOverflowed,
    SourceRefused,
    TableUnusable,
)
from replicator.source.changefeed import Changefeed, _Decoder
from replicator.source.connection import asking
from replicator.source.driver import shut
from replicator.source.watchdog import Watch
from tests.support.feed_elements import add

NAME = TableName("db", "t")
LOSS = Change(error="Changefeed cache over array size limit, skipped 202 elements.")


class FakeCursor:
    """Batches, one a response, as the driver keeps them."""

    def __init__(self, *batches: list[Any] | Exception) -> None:
        self._batches = list(batches)
        self.items: deque[Any] = deque()
        self.error: Exception | None = None
        self.outstanding_requests = 1

    def next(self, wait: float) -> Any:
        assert wait == 1
        if not self.items:
            if not self._batches:
                raise reql.ReqlTimeoutError
            batch = self._batches.pop(0)
            if isinstance(batch, Exception):
                raise batch
            self.items.extend(batch)
        return self.items.popleft()


class FakeConnection:
    def __init__(self, answer: Exception | None = None, table_id: str = "") -> None:
        self.answer = answer
        self.table_id = table_id
        self.kept_socket = socket.socket()

    def __del__(self) -> None:
        self.kept_socket.close()

    def _start(self, _query: object) -> list[object]:
        """What the driver's queries call; the answer to a ping."""
        if self.answer is not None:
            raise self.answer
        return [False, self.table_id]

    def close(self, *, noreply_wait: bool) -> None:
        assert not noreply_wait
        raise reql.ReqlDriverError("already gone")


def feed(*batches: list[Any] | Exception) -> Changefeed:
    return Changefeed(FakeConnection(), FakeCursor(*batches), Watch(), NAME)


def test_a_batch_comes_whole() -> None:
    elements = [add({"id": n}) for n in range(3)]
    found = feed(elements, elements[:1])

    assert found.read(1) == elements
    assert found.read(1) == elements[:1]
    assert found.read(1) == []


def test_what_came_before_a_loss_is_returned_before_it_is_raised() -> None:
    elements = [add({"id": n}) for n in range(3)]
    found = feed([*elements, LOSS, *elements])

    assert found.read(1) == elements
    with pytest.raises(FeedOverflowed) as lost:
        found.read(1)
    assert lost.value.skipped == 202


def test_a_batch_that_cannot_be_decoded_ends_the_feed() -> None:
    decoded = _Decoder().decode('{"t":3,"r":[{"new_val":{"id":')
    assert decoded["t"] == 3

    with pytest.raises(FeedAborted, match="cannot be read"):
        feed(decoded["r"]).read(1)  # type: ignore[arg-type]


def test_a_feed_that_ends_normally_is_lost_too() -> None:
    with pytest.raises(FeedAborted, match="ended"):
        feed(reql.ReqlCursorEmpty()).read(1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (reql.ReqlDriverError("Connection is closed."), FeedDisconnected),
        (reql.ReqlRuntimeError("Connection is closed.", None, []), FeedDisconnected),
        (ConnectionResetError("reset"), FeedDisconnected),
        (AttributeError("'NoneType' object has no attribute 'recv'"), FeedDisconnected),
        (reql.ReqlOpFailedError("Changefeed aborted (unavailable).", None, []), FeedAborted),
        (reql.ReqlOpIndeterminateError("Query terminated.", None, []), FeedAborted),
        (reql.ReqlOpFailedError("Table `db.t` does not exist.", None, []), TableUnusable),
        (reql.ReqlPermissionError("User `u` does not have `read`", None, []), SourceRefused),
        (
            reql.ReqlInternalError("User `u` does not have the required `read`", None, []),
            SourceRefused,
        ),
        (reql.ReqlAuthError("wrong password"), SourceRefused),
    ],
)
def test_every_error_of_the_driver_has_a_meaning(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as lost:
        feed(error).read(1)
    assert "\n" not in str(lost.value)


def test_an_attribute_error_of_our_own_is_not_hidden() -> None:
    with (
        pytest.raises(AttributeError, match="typo"),
        asking(FakeConnection(), Watch(), 1, "db.t"),
    ):
        raise AttributeError("typo")


def test_a_ping_without_an_answer_is_a_lost_connection() -> None:
    silent = Changefeed(
        FakeConnection(reql.ReqlDriverError("Connection is closed.")), FakeCursor(), Watch(), NAME
    )
    with pytest.raises(FeedDisconnected):
        silent.ping()
    assert feed().ping()


def test_a_ping_that_another_table_answers_is_a_lost_feed() -> None:
    """The server's feed stays with its table, whatever the table is called."""
    mine = Changefeed(FakeConnection(table_id="T1"), FakeCursor(), Watch(), NAME)
    mine.table_id = "T1"
    assert mine.ping()
    mine.table_id = "T0"
    with pytest.raises(FeedAborted, match=r"db\.t names another table now"):
        mine.ping()


def test_a_ping_whose_answer_came_after_something_of_the_feed_does_not_call_it_quiet() -> None:
    cursor = FakeCursor()
    busy = Changefeed(FakeConnection(), cursor, Watch(), NAME)
    cursor.items.append(Change())
    assert not busy.ping()
    cursor.items.clear()
    assert busy.ping()
    cursor.outstanding_requests = 0
    assert not busy.ping(), "it could not come before: nobody had asked for it"
    cursor.outstanding_requests = 1
    assert busy.ping()
    cursor.error = reql.ReqlOpFailedError("Changefeed aborted (unavailable).")
    assert not busy.ping()


def test_a_feed_is_closed_even_when_its_connection_is_gone() -> None:
    with feed() as opened:
        opened.abort()

    assert opened._connection.kept_socket.fileno() == -1


def test_shutting_wakes_whoever_reads() -> None:
    ours, theirs = socket.socketpair()
    connection = FakeConnection()
    connection.kept_socket.close()
    connection.kept_socket = ours
    shut(connection)

    assert ours.recv(1) == b""
    ours.close()
    theirs.close()
    shut(connection)
