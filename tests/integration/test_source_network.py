"""Between the reader and RethinkDB something breaks or hangs, without a word."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from replicator_sandbox import EmbeddedRethinkDB
from rethinkdb import r

from replicator.clock import now_us
from replicator.domain.model import Cause
from replicator.source import reader as reader_module
from tests.support.ports import free_port
from tests.support.proxy import TcpProxy
from tests.support.reading import RunningReader, new_table, server_of
from tests.support.rethink import RealRethinkDB, find_rethinkdb
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
]


@pytest.fixture
def embedded() -> Iterator[EmbeddedRethinkDB]:
    with EmbeddedRethinkDB(poll_seconds=0.05) as server:
        yield server


@pytest.fixture(scope="module")
def real() -> Iterator[RealRethinkDB]:
    """A server that these tests may freeze, stop and kill."""
    if find_rethinkdb() is None:
        pytest.skip("no `rethinkdb` program on PATH")
    with RealRethinkDB() as server:
        yield server


class Shop:
    """A table with a few documents on some server, and a way to write to it."""

    def __init__(self, server: Any) -> None:
        self.server = RethinkServer(server.url)
        with self.server.connect() as driver:
            self.name = new_table(driver)
        self.table = r.db(self.name.database).table(self.name.table)
        self.written = 0

    def write(self, count: int = 10) -> None:
        documents = [{"id": n} for n in range(self.written, self.written + count)]
        with self.server.connect() as driver:
            self.table.insert(documents).run(driver)
        self.written += count

    def arrived(self, reader: RunningReader) -> bool:
        return {doc["id"] for doc in reader.documents().values()} == set(range(self.written))

    def wait_until_arrived(self, reader: RunningReader, seconds: float = 20) -> None:
        wait_until(lambda: self.arrived(reader), seconds, "all documents")


@pytest.fixture
def shop(embedded: EmbeddedRethinkDB) -> Shop:
    made = Shop(embedded)
    made.write()
    return made


def test_a_dropped_connection_is_opened_again(embedded: EmbeddedRethinkDB, shop: Shop) -> None:
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        embedded.drop_connections()
        shop.write()
        reader.wait_until_ready(2)
        shop.wait_until_arrived(reader)
        assert [closed.cause for closed in reader.closed] == [Cause.DISCONNECT]
    assert reader.metric("replicator_reconnects_total", peer="rethinkdb") == 1


def test_a_loss_is_dated_from_when_the_feed_was_last_complete(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    began_at = now_us()
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        embedded.go_silent()
        closed = reader.wait_until_closed()
        embedded.go_silent(on=False)
        reader.wait_until_ready(2)
    assert began_at <= closed.complete_at < reader.opened[1].at - 1_000_000


def test_a_host_that_is_down_is_tried_until_it_is_up(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    with TcpProxy(embedded.port) as proxy:
        proxy.refuse()
        server = server_of(shop.server, hosts=[("127.0.0.1", proxy.port)])
        with RunningReader(server, shop.name) as reader:
            closed = reader.wait_until_closed()
            assert f"127.0.0.1:{proxy.port}" in closed.error
            proxy.heal()
            reader.wait_until_ready()
            shop.wait_until_arrived(reader)
    assert len(reader.closed) == 2, "one and the same error was reported more than once"


def test_a_refusing_server_is_tried_until_it_answers(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    embedded.refuse()
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_closed()
        embedded.refuse(on=False)
        reader.wait_until_ready()
    assert reader.error is None


def test_the_second_host_is_used_when_nobody_answers_at_the_first(shop: Shop) -> None:
    hosts = [("127.0.0.1", free_port()), (shop.server.host, shop.server.port)]
    with RunningReader(server_of(shop.server, hosts=hosts), shop.name) as reader:
        reader.wait_until_ready()
        shop.wait_until_arrived(reader)


@pytest.mark.parametrize("direction", ["both", "to_server", "to_client"])
def test_a_link_that_went_deaf_is_noticed(
    embedded: EmbeddedRethinkDB, shop: Shop, direction: Any
) -> None:
    with TcpProxy(embedded.port) as proxy:
        server = server_of(shop.server, hosts=[("127.0.0.1", proxy.port)])
        with RunningReader(server, shop.name) as reader:
            reader.wait_until_ready()
            proxy.go_deaf(direction)
            shop.write()
            closed = reader.wait_until_closed()
            proxy.heal()
            reader.wait_until_ready(2)
            shop.wait_until_arrived(reader)
    assert closed.cause is Cause.DISCONNECT


def test_a_quiet_feed_on_a_working_link_stays_open(shop: Shop) -> None:
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        complete_at = reader.reader.complete_at
        # Two pings went well: nothing was lost for being quiet.
        wait_until(lambda: reader.reader.complete_at > complete_at, 10, "a ping")
        complete_at = reader.reader.complete_at
        wait_until(lambda: reader.reader.complete_at > complete_at, 10, "another ping")
        assert reader.closed == []
        shop.write()
        shop.wait_until_arrived(reader)


def test_a_server_that_never_answers_the_opening_is_given_up(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    embedded.go_silent()
    with RunningReader(server_of(shop.server), shop.name) as reader:
        closed = reader.wait_until_closed()
        embedded.go_silent(on=False)
        reader.wait_until_ready()
    assert closed.cause is Cause.DISCONNECT


def test_a_message_that_stalls_in_its_middle_is_given_up(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        embedded.stall_mid_message()
        shop.write()
        closed = reader.wait_until_closed()
        embedded.stall_mid_message(on=False)
        shop.wait_until_arrived(reader)
    assert closed.cause is Cause.DISCONNECT


def test_a_connection_cut_in_the_middle_of_a_message_is_opened_again(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    with TcpProxy(embedded.port) as proxy:
        server = server_of(shop.server, hosts=[("127.0.0.1", proxy.port)])
        with RunningReader(server, shop.name) as reader:
            reader.wait_until_ready()
            proxy.cut_after(50)
            shop.write()
            closed = reader.wait_until_closed()
            shop.wait_until_arrived(reader)
    assert closed.cause is Cause.DISCONNECT


def test_a_snapshot_without_an_end_is_given_up_with_more_patience_each_time(
    embedded: EmbeddedRethinkDB, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_STALL_SECONDS", 0.25)
    embedded.hold_ready()
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_closed(2)
        assert reader.reader._stall_seconds == 1.0
        embedded.hold_ready(on=False)
        reader.wait_until_ready()
        shop.wait_until_arrived(reader)
    assert {closed.cause for closed in reader.closed[:2]} == {Cause.OVERFLOW}
    assert reader.queue_sizes[:3] == [100_000, 200_000, 400_000]


def test_an_ordered_overflow_counts_what_was_skipped(
    embedded: EmbeddedRethinkDB, shop: Shop
) -> None:
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        assert embedded.overflow_feeds(str(shop.name)) == 1
        closed = reader.wait_until_closed()
        reader.wait_until_ready(2)
    assert (closed.cause, closed.skipped) == (Cause.OVERFLOW, 1)


def test_an_unavailable_primary_is_waited_for(embedded: EmbeddedRethinkDB, shop: Shop) -> None:
    text = "cannot subscribe to table: primary replica for shard [-inf, +inf) not available"
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        embedded.abort_feeds(str(shop.name), message=text)
        closed = reader.wait_until_closed()
        reader.wait_until_ready(2)
    assert closed.cause is Cause.ABORTED
    assert text in closed.error


def test_a_reader_that_waits_for_a_hung_server_stops_at_once(
    embedded: EmbeddedRethinkDB, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_WAIT_SECONDS", 60.0)
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        embedded.go_silent()
        reader.reader.stop()
        reader.thread.join(2)
        assert not reader.thread.is_alive()
    assert [(closed.cause, closed.error) for closed in reader.closed] == [(Cause.START, "")]


def test_a_feeds_socket_is_kept_alive(shop: Shop) -> None:
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        feed = reader.reader._feed
        assert feed is not None
        sock = feed._connection._instance._socket._socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


# The real server, which is stopped in every way there is.


def _killed(server: RealRethinkDB) -> None:
    server.kill()


def _stopped(server: RealRethinkDB) -> None:
    server.stop()


@pytest.mark.parametrize("end", [_killed, _stopped])
def test_a_server_that_ended_is_waited_for(
    real: RealRethinkDB, end: Callable[[RealRethinkDB], None]
) -> None:
    shop = Shop(real)
    shop.write()
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        end(real)
        closed = reader.wait_until_closed()
        real.start()
        reader.wait_until_ready(2, 30)
        shop.write()
        shop.wait_until_arrived(reader)
    assert closed.cause is Cause.DISCONNECT
    assert reader.error is None


def test_a_frozen_server_is_noticed_although_its_kernel_answers(real: RealRethinkDB) -> None:
    shop = Shop(real)
    shop.write()
    with RunningReader(server_of(shop.server), shop.name) as reader:
        reader.wait_until_ready()
        real.freeze()
        try:
            closed = reader.wait_until_closed()
        finally:
            real.thaw()
        reader.wait_until_ready(2, 30)
        shop.write()
        shop.wait_until_arrived(reader)
    assert closed.cause is Cause.DISCONNECT
