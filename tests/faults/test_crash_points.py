"""A real process that dies by SIGKILL at each named step of a change's way, and starts again."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from replicator.fault_points import VARIABLE, FaultPoint
from tests.support.consumer import Consumer, Message
from tests.support.promises import assert_order_is_kept, wait_for_equality
from tests.support.proxy import TcpProxy
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until
from tests.support.writer import Writer

# The lives of one replicator: where each of them ends. `point:3` is the third time that the point
# is reached. Every life but the first begins with the repair of the one before.
LIVES = [
    ("outbox-created", "migrating", "outbox-identified", "feed-opened", "feed-opened"),
    ("batch-read:15",),
    ("before-begin:20",),
    ("before-commit:20", "before-commit:2"),
    ("committed:20", "committed:2"),
    ("handed-over:5", "read-back", "read-back"),
    ("before-write:5",),
    ("after-write:5",),
    ("confirmed:5", "confirmed"),
    ("settling:5", "settling"),
    ("settled:5", "feed-opened", "snapshot-part", "before-sweep", "before-sweep"),
    ("settled:5", "feed-ready", "feed-ready"),
    ("stop-asked",),
    ("readers-stopped",),
    ("drained",),
    ("publisher-stopped",),
    ("store-stopped",),
]
if not os.environ.get("FAULTS_LONG"):
    # A point that is met twice in a row is met once; deaths in a repair remain.
    LIVES = [
        tuple(next(same) for _, same in itertools.groupby(lives, lambda life: life.split(":")[0]))
        for lives in LIVES
    ]
SWEEP_PART = "sweep-part"  # has a test of its own: it needs more documents than a page has
PAGE = 5000  # rows of the index that are swept in one transaction
SHUTDOWN = {"stop-asked", "readers-stopped", "drained", "publisher-stopped", "store-stopped"}
ENOUGH_WRITES = 50


class Gap(NamedTuple):
    cause: str
    opened_at: int
    closed_at: int
    created: int
    updated: int
    deleted: int


class Cost(NamedTuple):
    """What a crash leaves of the one entry that there is."""

    entries_kept: int
    delivered_before: int
    delivered_in_all: int


@pytest.fixture(scope="module")
def vhosts(rabbitmq: PrivateRabbitMQ) -> Iterator[str]:
    """Virtual hosts for all tests of this file, made by one command."""
    names = [f"v{uuid.uuid4().hex[:12]}" for _ in range(32)]
    rabbitmq.add_vhosts(names)
    return iter(names)


@pytest.fixture
def vhost(rabbitmq: PrivateRabbitMQ, vhosts: Iterator[str]) -> str:
    return rabbitmq.url_of(next(vhosts))


@pytest.fixture
def table(database: str) -> Any:
    return r.db(database).table("mytable")


@pytest.fixture
def consumer(vhost: str) -> Iterator[Consumer]:
    with Consumer(vhost) as consuming:
        yield consuming


@contextlib.contextmanager
def life(process: ReplicatorProcess, order: str) -> Iterator[None]:
    """One life that ends at a point; the body is what happens in it."""
    past = len(process.log())
    with pytest.MonkeyPatch.context() as armed:
        armed.setenv(VARIABLE, order)
        process.start()
    yield
    assert process.wait(60) == -signal.SIGKILL, process.log()
    epitaph = f"killed at fault point {order.partition(':')[0]}\n"
    assert epitaph in process.log()[past:], process.log()


def rows(process: ReplicatorProcess, statement: str) -> list[Any]:
    """Read the outbox of a running replicator."""
    file = f"file:{process.outbox}?mode=ro"
    with contextlib.closing(sqlite3.connect(file, uri=True)) as connection:
        return connection.execute(statement).fetchall()


def rows_of_dead(process: ReplicatorProcess, statement: str) -> list[Any]:
    """Read a copy: who opens the outbox itself repairs it, and that is for the next life."""
    copy = process.outbox.with_name("copy")
    copy.mkdir()
    for file in process.outbox.parent.glob("outbox.db*"):
        shutil.copy(file, copy)
    with contextlib.closing(sqlite3.connect(copy / process.outbox.name)) as connection:
        found = connection.execute(statement).fetchall()
    shutil.rmtree(copy)
    return found


def gaps_to_come(process: ReplicatorProcess) -> int:
    """Return how many gaps there are once it is repaired: one that is open goes on."""
    closed = "SELECT count(*) FROM gaps WHERE closed_at IS NOT NULL"
    opened = "SELECT count(*) FROM feeds WHERE opened_at IS NOT NULL"
    [(has_been_open,)] = rows_of_dead(process, opened)
    [(repaired,)] = rows_of_dead(process, closed)
    return int(has_been_open + repaired)


def gaps(process: ReplicatorProcess) -> list[Gap]:
    columns = ", ".join(Gap._fields)
    found = [Gap(*row) for row in rows(process, f"SELECT {columns} FROM gaps ORDER BY id")]
    assert all(gap.closed_at is not None for gap in found), f"not repaired: {found}"
    return found


def entries_of_dead(process: ReplicatorProcess) -> list[int]:
    return [number for (number,) in rows_of_dead(process, "SELECT id FROM entries ORDER BY id")]


def wait_until_all_is_delivered(process: ReplicatorProcess, consumer: Consumer) -> None:
    """G1: every number that was ever given out was delivered, and the outbox is empty."""
    wait_until(lambda: rows(process, "SELECT count(*) FROM entries") == [(0,)], 30)
    [(last,)] = rows(process, "SELECT last_entry FROM meta")
    given_out = set(range(1, last + 1))

    def delivered() -> set[int]:
        return {message.entry for message in consumer.history}

    # RabbitMQ has them all by now; the consumer may still be reading.
    wait_until(lambda: len(consumer.history) >= last and delivered() >= given_out, 30)
    assert delivered() == given_out


def assert_every_message_says_something_new(consumer: Consumer) -> None:
    """G2: one number is one message, and none repeats the state that its document had before."""
    messages: dict[int, Message] = {}
    for message in consumer.history:
        assert messages.setdefault(message.entry, message).body == message.body, message.entry
    states: dict[str, list[Any]] = defaultdict(list)
    for _, message in sorted(messages.items()):
        document = message.old_val if message.new_val is None else message.new_val
        states[json.dumps(document["id"])].append(message.new_val)
    for key, of_document in states.items():
        for before, after in itertools.pairwise(of_document):
            assert before != after, f"{key}: {before} was published twice"


def fill(table: Any, connection: Any, lives: int) -> None:
    """Make documents that nobody changes, and some for the time in which the process is dead."""
    documents = [{"id": f"quiet-{n}", "text": "x" * n} for n in range(20)]
    for n in range(lives):
        documents += [{"id": f"gone-{n}"}, {"id": f"changed-{n}", "n": 0}]
    table.insert(documents).run(connection)


def change_while_it_is_dead(table: Any, connection: Any, number: int, writer: Writer) -> None:
    table.get(f"gone-{number}").delete().run(connection)
    table.get(f"changed-{number}").update({"n": 1}).run(connection)
    table.insert({"id": f"born-{number}"}).run(connection)
    enough = writer.writes + ENOUGH_WRITES
    wait_until(lambda: writer.writes >= enough, 30)


@pytest.mark.parametrize("lives", LIVES, ids=" ".join)
def test_nothing_is_lost_when_it_dies_under_load(
    lives: tuple[str, ...],
    replicator: ReplicatorProcess,
    rethinkdb: RethinkServer,
    consumer: Consumer,
    connection: Any,
    database: str,
    table: Any,
) -> None:
    fill(table, connection, len(lives))
    deaths: list[float] = []
    with Writer(rethinkdb, database, seed=LIVES.index(lives)) as writer:
        for number, order in enumerate(lives):
            with life(replicator, order):
                if order in SHUTDOWN:
                    replicator.wait_until_ready()
                    replicator.send(signal.SIGTERM)
            deaths.append(time.time() * 1e6)
            change_while_it_is_dead(table, connection, number, writer)
        expected_gaps = gaps_to_come(replicator)
        replicator.start_and_wait()
        writer.stop()
        wait_for_equality(consumer, connection, database)
    wait_until_all_is_delivered(replicator, consumer)
    assert_order_is_kept(consumer)
    assert_every_message_says_something_new(consumer)
    recorded = gaps(replicator)
    assert [gap.cause for gap in recorded] == ["start"] * expected_gaps
    assert_the_deaths_are_in(recorded, lives, deaths)


def assert_the_deaths_are_in(
    recorded: list[Gap], lives: tuple[str, ...], deaths: list[float]
) -> None:
    """G4: whatever was written while it was dead is in a gap, once the feed had been open."""
    never_opened = ("outbox-created", "migrating", "outbox-identified")
    for order, died_at in zip(lives, deaths, strict=True):
        # A gap begins a second early: it may reach back to a death before the first feed.
        is_in_a_gap = any(gap.opened_at <= died_at <= gap.closed_at for gap in recorded)
        assert is_in_a_gap or order in never_opened, f"{order}: {recorded}"


def test_the_lives_end_at_every_point() -> None:
    ends = {order.partition(":")[0] for lives in LIVES for order in lives}
    assert ends | {SWEEP_PART} == set(FaultPoint)


@pytest.mark.parametrize(
    ("order", "cost"),
    [
        # Committed: it comes, once, although no feed ever mentions it again.
        ("snapshot-part", Cost(1, 0, 1)),
        ("before-write", Cost(1, 0, 1)),
        ("after-write", Cost(1, 1, 2)),  # on its way, and nobody hears its confirm: it comes again
        # Between the confirm and the commit of its settling: it comes again.
        ("confirmed", Cost(1, 1, 2)),
        ("settling", Cost(1, 1, 2)),
        ("settled", Cost(0, 1, 1)),
    ],
)
def test_what_a_crash_costs_one_document(
    order: str,
    cost: Cost,
    replicator: ReplicatorProcess,
    consumer: Consumer,
    connection: Any,
    table: Any,
) -> None:
    table.insert({"id": "only"}).run(connection)
    with life(replicator, order):
        pass
    assert len(entries_of_dead(replicator)) == cost.entries_kept
    assert len(consumer.wait_for_count(cost.delivered_before)) == cost.delivered_before
    replicator.start_and_wait()
    # A second document marks the end: what the first one cost has come before it.
    table.insert({"id": "mark"}).run(connection)
    consumer.wait_for(lambda seen: seen.history[-1:] != [] and seen.history[-1].entry == 2)
    assert [m.entry for m in consumer.history] == [1] * cost.delivered_in_all + [2]
    assert len({m.properties.message_id for m in consumer.history}) == 2


def test_what_was_published_and_not_confirmed_is_published_again(
    replicator: ReplicatorProcess,
    rabbitmq: PrivateRabbitMQ,
    vhost: str,
    consumer: Consumer,
    connection: Any,
    table: Any,
) -> None:
    with TcpProxy(rabbitmq.port) as proxy:
        through = vhost.replace(f":{rabbitmq.port}/", f":{proxy.port}/")
        replicator.settings["RABBITMQ__URL"] = through
        with life(replicator, "after-write:2"):
            replicator.wait_until_ready()
            proxy.go_deaf("to_client")
            table.insert({"id": "first"}).run(connection)
            consumer.wait_for_count(1)
            table.insert({"id": "second"}).run(connection)
        assert entries_of_dead(replicator) == [1, 2]
        assert len(consumer.wait_for_count(2)) == 2
        proxy.heal()
        replicator.start_and_wait()
        consumer.wait_for_count(4)
        wait_until_all_is_delivered(replicator, consumer)
    assert [message.entry for message in consumer.history] == [1, 2, 1, 2]
    assert_every_message_says_something_new(consumer)


def test_the_part_of_a_snapshot_that_was_compared_is_not_published_again(
    replicator: ReplicatorProcess,
    consumer: Consumer,
    connection: Any,
    database: str,
    table: Any,
) -> None:
    # More bytes than one transaction takes, so that none has all of the snapshot.
    documents = [{"id": n, "text": "x" * 100_000} for n in range(80)]
    for first in range(0, len(documents), 20):
        table.insert(documents[first : first + 20]).run(connection)
    for _ in range(2):
        with life(replicator, "snapshot-part"):
            pass
        [(compared,)] = rows_of_dead(replicator, "SELECT count(*) FROM documents")
        assert 0 < compared < len(documents)
    table.get_all(*range(10)).delete().run(connection)
    replicator.start_and_wait()
    wait_until_all_is_delivered(replicator, consumer)
    wait_for_equality(consumer, connection, database)
    assert_every_message_says_something_new(consumer)
    assert [gap.cause for gap in gaps(replicator)] == ["start"]


def test_a_sweep_that_breaks_off_goes_on_and_its_gap_counts_every_delete(
    replicator: ReplicatorProcess,
    consumer: Consumer,
    connection: Any,
    database: str,
    table: Any,
    tmp_path: Path,
) -> None:
    settings = tmp_path / "replicator.toml"
    settings.write_text(f'[[tables]]\nname = "{database}.mytable"\ndelete_guard = "off"\n')
    replicator.settings["CONFIG"] = str(settings)
    left = 50
    count = PAGE + 2 * left
    table.insert([{"id": n} for n in range(count)]).run(connection, durability="soft")
    with life(replicator, "feed-ready"):
        pass
    table.between(0, count - left).delete().run(connection, durability="soft")
    with life(replicator, SWEEP_PART):
        pass
    [(indexed,)] = rows_of_dead(replicator, "SELECT count(*) FROM documents")
    assert left < indexed <= count - PAGE + left
    with life(replicator, "before-sweep"):
        pass
    replicator.start_and_wait()
    wait_until_all_is_delivered(replicator, consumer)
    wait_for_equality(consumer, connection, database)
    assert_every_message_says_something_new(consumer)
    [gap] = gaps(replicator)
    assert (gap.cause, gap.created, gap.updated, gap.deleted) == ("start", 0, 0, count - left)
