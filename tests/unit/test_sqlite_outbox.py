"""What is particular to an outbox on SQLite; what each database promises is in `tests/outbox`."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from replicator.domain.index import IndexChange
from replicator.domain.model import Entry, Known, Op, Origin, Outcomes, TableName
from replicator.errors import OutboxUnavailable
from replicator.outbox import schema
from replicator.outbox.port import Step
from replicator.outbox.sqlite import connection as connection_module
from replicator.outbox.sqlite import outbox as outbox_module
from replicator.outbox.sqlite.connection import open_engine, open_writer
from replicator.outbox.sqlite.outbox import SqliteOutbox
from tests.support.failing import FailingConnection

DIGEST = b"d" * 16


class Opened:
    """An outbox with one feed, its connection, and what another process sees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = FailingConnection(open_writer(path))
        self.outbox = SqliteOutbox(path, self.connection)  # type: ignore[arg-type]
        self.outbox.prepare(now=1)
        self.outbox.register(TableName("db", "t"), "{}")

    def insert(self, rows: dict[str, Known], feed_id: int = 1) -> None:
        self.outbox.commit(Step(index_changes={feed_id: IndexChange(inserted=rows)}))

    def append(self, first: int, last: int, body: bytes = b"{}") -> None:
        entries = [
            Entry(number, 1, f'"{number}"', Op.UPDATE, Origin.FEED, body, 1)
            for number in range(first, last + 1)
        ]
        self.outbox.commit(Step(entries, last_entry=last))

    def settle(self, first: int, last: int) -> None:
        self.outbox.commit(Step(last_entry=last, outcomes=[Outcomes(range(first, last + 1))]))

    def value(self, statement: str) -> int:
        with contextlib.closing(sqlite3.connect(self.path)) as other:
            return int(other.execute(statement).fetchone()[0])

    def count(self) -> int:
        return self.value("SELECT count(*) FROM entries")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    engine = open_engine(tmp_path / "outbox.db", create=True)
    schema.metadata.create_all(engine)
    made = Opened(tmp_path / "outbox.db")
    yield made
    made.outbox.close()
    engine.dispose()


# Transactions.


def test_nothing_joins_what_could_not_be_rolled_back(opened: Opened) -> None:
    opened.append(0, 0)
    with opened.connection.failing(None) as counted:
        opened.append(1, 1)
    # The last one is COMMIT; the ROLLBACK after it fails too.
    with (
        opened.connection.failing(counted.statements, many=2) as failure,
        pytest.raises(OutboxUnavailable),
    ):
        opened.append(2, 2)
    assert failure.statements == counted.statements + 1
    assert opened.connection.in_transaction
    assert opened.count() == 2
    opened.append(3, 3)

    assert not opened.connection.in_transaction
    assert opened.value("SELECT count(*) FROM entries WHERE id = 2") == 0
    assert opened.count() == 3


def test_nothing_reads_what_could_not_be_rolled_back(opened: Opened) -> None:
    # BEGIN, the row; then the roll-back of the failing COMMIT fails as well.
    with opened.connection.failing(3, many=2), pytest.raises(OutboxUnavailable):
        opened.insert({'"a"': Known(1, DIGEST)})

    found = opened.outbox.look_up(1, ['"a"'], with_documents=False, is_in_order=False)

    assert found == {}


def test_the_write_lock_is_taken_at_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_BUSY_TIMEOUT_MS", 1)
    second = SqliteOutbox(opened.path, open_writer(opened.path))
    with opened.outbox._transaction(), pytest.raises(OutboxUnavailable, match="locked"):
        second.prepare(now=2)
    second.prepare(now=2)
    second.close()


def test_a_disk_that_is_full_takes_nothing_of_a_step_and_is_left_by_what_is_settled(
    opened: Opened,
) -> None:
    opened.append(1, 20, b"x" * 1000)
    pages = opened.value("PRAGMA page_count")
    opened.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutboxUnavailable, match="cannot be written now"):
        opened.append(21, 200, b"x" * 1000)
    assert opened.count() == 20
    opened.settle(1, 20)
    assert opened.count() == 0
    opened.append(21, 30, b"x" * 1000)

    assert opened.count() == 10


# Free pages.


def test_freed_pages_are_given_back_in_steps(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_TIDY_PAGES", 10)
    opened.append(1, 100, b"x" * 4000)
    opened.settle(1, 100)
    free = opened.value("PRAGMA freelist_count")
    assert free > 100
    for done in range(1, 4):
        opened.outbox.tidy()
        assert opened.value("PRAGMA freelist_count") == free - 10 * done
    while opened.value("PRAGMA freelist_count"):
        opened.outbox.tidy()

    with opened.connection.failing(None) as counted:
        opened.outbox.tidy()
        opened.outbox.tidy()
    assert counted.statements <= 3, "it does not ask again until something is settled"
    opened.append(101, 101, b"x" * 4000)
    opened.settle(101, 101)
    opened.outbox.tidy()
    assert opened.value("PRAGMA freelist_count") == 0


def test_pages_that_could_not_be_given_back_are_the_next_time(opened: Opened) -> None:
    opened.append(1, 100, b"x" * 4000)
    opened.settle(1, 100)
    with opened.connection.failing(4), pytest.raises(OutboxUnavailable):
        opened.outbox.tidy()
    opened.outbox.tidy()

    assert opened.value("PRAGMA freelist_count") == 0


# Look-ups.


def test_neighbours_are_read_along_and_strangers_searched_for(opened: Opened) -> None:
    rows = {f'"{n:04d}"': Known(n, DIGEST, b"{}") for n in range(1, 1001)}
    keys = list(rows)
    opened.insert(rows)
    other = opened.outbox.register(TableName("db", "other"), "{}").row.id
    opened.insert({f'"{n:04d}"': Known(2000 + n, DIGEST) for n in range(900, 1100)}, other)

    def found(wanted: list[str], *, is_kept: bool = False) -> list[str]:
        seen = opened.outbox.look_up(1, wanted, with_documents=is_kept, is_in_order=True)
        document = b"{}" if is_kept else None
        assert seen == {key: msgspec.structs.replace(rows[key], document=document) for key in seen}
        return sorted(seen)

    assert found(keys[500:100:-2]) == keys[102:501]  # every second: those between come along
    assert found(keys[500:100:-2], is_kept=True) == keys[102:501:2]  # they may be large
    assert found([*keys[0:500:5], '"0001a"']) == keys[0:500:5]
    assert found(keys[990:]) == keys[990:]  # nothing is after the last
    assert found(['"a"', '"b"']) == []
    assert found([]) == []


def test_not_more_than_twice_as_many_rows_are_read_as_are_wanted(opened: Opened) -> None:
    rows = {f'"{n:04d}"': Known(n, DIGEST) for n in range(1, 101)}
    opened.insert(rows)
    for step in range(1, 30):
        wanted = list(rows)[::step]
        found = opened.outbox.look_up(1, wanted, with_documents=False, is_in_order=True)
        assert len(found) <= 2 * len(wanted)


def test_a_key_that_is_no_text_is_no_neighbour(opened: Opened) -> None:
    rows = {'"a"': Known(1, DIGEST), '"c"': Known(2, DIGEST)}
    opened.insert(rows)
    for row_id in range(3, 8):
        values = (row_id, 1, b"%d" % row_id, DIGEST)
        text = "INSERT INTO documents (id, feed_id, key, digest) VALUES (?, ?, ?, ?)"
        opened.connection.execute(text, values)

    assert opened.outbox.look_up(1, list(rows), with_documents=False, is_in_order=True) == rows
