"""Statements on the driver's own connection: one transaction with SQLAlchemy's, and many rows."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, insert

from replicator.errors import OutboxUnavailable
from replicator.outbox.sqlite import connection as engine_module
from replicator.outbox.sqlite.connection import open_engine, translated
from replicator.outbox.sqlite.statements import Insertion, Transaction, run

_ROWS = Table("rows", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = open_engine(f"sqlite:///{tmp_path}/outbox.db", create=True)
    _ROWS.metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection


def count(connection: Connection) -> int:
    """Count the rows as another process sees them: committed ones only."""
    with contextlib.closing(sqlite3.connect(str(connection.engine.url.database))) as other:
        found: int = other.execute("SELECT count(*) FROM rows").fetchone()[0]
        return found


def test_statements_of_both_kinds_are_committed_together(connection: Connection) -> None:
    for _ in range(2):
        with Transaction(connection):
            run(connection, "INSERT INTO rows (n) VALUES (1)")
            connection.execute(insert(_ROWS).values(n=2))
            run(connection, "INSERT INTO rows (n) VALUES (3)")
            assert count(connection) % 3 == 0
        assert connection.get_transaction() is None

    assert count(connection) == 6


@pytest.mark.parametrize("joining", [(), (2,)])
def test_an_error_takes_everything_back(connection: Connection, joining: tuple[int, ...]) -> None:
    def fail() -> None:
        with Transaction(connection):
            run(connection, "INSERT INTO rows (n) VALUES (1)")
            for n in joining:
                connection.execute(insert(_ROWS).values(n=n))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert count(connection) == 0

    with Transaction(connection):
        run(connection, "INSERT INTO rows (n) VALUES (1)")
    with connection.begin():
        connection.execute(insert(_ROWS).values(n=2))
    assert count(connection) == 2


@pytest.mark.parametrize("joining", [(), (2,)])
def test_a_commit_that_fails_is_taken_back_and_can_be_done_again(
    connection: Connection, joining: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_driver: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    def write() -> None:
        with translated(), Transaction(connection):
            run(connection, "INSERT INTO rows (n) VALUES (1)")
            for n in joining:
                connection.execute(insert(_ROWS).values(n=n))

    with monkeypatch.context() as patch:
        patch.setattr(connection.dialect, "do_commit", fail)
        with pytest.raises(OutboxUnavailable):
            write()
    assert count(connection) == 0

    write()
    assert count(connection) == 1 + len(joining)


def test_an_interrupt_of_a_statement_is_raised_and_takes_everything_back(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with Transaction(connection):
            run(connection, "INSERT INTO rows (n) VALUES (1)")
            connection.execute(insert(_ROWS).values(n=2))

    with monkeypatch.context() as patch:
        patch.setattr(connection.dialect, "do_execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write()
    assert count(connection) == 0

    write()
    assert count(connection) == 2


def test_nothing_joins_what_could_not_be_taken_back(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_driver: object) -> None:
        raise sqlite3.OperationalError

    def half() -> None:
        with Transaction(connection):
            run(connection, "INSERT INTO rows (n) VALUES (1)")
            raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(connection.dialect, "do_rollback", fail)
        with pytest.raises(sqlite3.OperationalError):
            half()
    for begin in (connection.begin, lambda: Transaction(connection)):
        with (
            pytest.raises(sqlite3.OperationalError, match="within a transaction"),
            begin(),
        ):
            pass

    assert count(connection) == 0


def test_the_write_lock_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 1)
    with open_engine(f"sqlite:///{tmp_path}/outbox.db").connect() as second:
        with (
            Transaction(connection),
            pytest.raises(OutboxUnavailable, match="locked"),
            translated(),
            Transaction(second),
        ):
            pass
        with Transaction(second):
            run(second, "INSERT INTO rows (n) VALUES (1)")

    assert count(connection) == 1


@given(st.integers(0, 400))
def test_any_number_of_rows_is_inserted_once_each(many: int) -> None:
    rows = [(number, 2 * number) for number in range(many)]
    with create_engine("sqlite://").connect() as connection:
        _ROWS.create(connection)
        Insertion(_ROWS.c.id, _ROWS.c.n).run(connection, rows)

        assert run(connection, "SELECT id, n FROM rows ORDER BY id").fetchall() == rows

        changed = [(number, -n) for number, n in rows[1:]]
        Insertion(_ROWS.c.id, _ROWS.c.n, overwritten=("n",)).run(connection, changed)

        found = run(connection, "SELECT id, n FROM rows ORDER BY id").fetchall()
        assert found == [*rows[:1], *changed]
