"""An outbox that holds anything: it is read right, or refused in one line, and never guessed at.

Rows are changed to other types, to unknown words, to numbers out of every bound; files are cut,
emptied, replaced, and pages of them overwritten. A change that leaves a row of the right form
cannot be told from what was written: SQLite has no checksums. So the commands must end clearly,
and what they print must be of the form that they promise.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.model import Cause, Failure, Outcomes
from replicator.errors import OutboxUnavailable, OutboxUnusable
from replicator.operators import entries
from replicator.operators.feeds import request_resync
from replicator.outbox.schema import metadata
from tests.faults.fuzzing import fuzz
from tests.support.command import Command, Done, command_line
from tests.support.feed_elements import add, change, initial
from tests.support.outbox import SECOND, Outbox, outbox, table
from tests.support.ports import free_port
from tests.support.replicator import ReplicatorProcess, last_words

COMMANDS = [
    ["outbox", "list"],
    ["outbox", "show", "2"],
    ["outbox", "stats"],
    ["outbox", "history"],
    ["outbox", "redrive", "--all", "--dry-run"],
    ["feed", "list"],
    ["feed", "gaps"],
    ["status"],
]
COLUMNS = [(made.name, column.name) for made in metadata.sorted_tables for column in made.columns]
WORDS = ["", "x", "\0", "9" * 400, "null", '{"', '"a"', "[1]"]
WORDS += ["ready", "parked", "overflow", "create", "feed"]
NUMBERS = [-1, 0, 2**62, -(2**63), 2**63 - 1, 1e308, float("inf"), 0.5]
VALUES = (
    st.none()
    | st.sampled_from([*WORDS, *NUMBERS, b"", b"\xff\xfe", b"{}"])
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=9)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
)
A1, A2, B1 = {"id": "a", "v": 1}, {"id": "a", "v": 2}, {"id": 7, "v": "é"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outbox of a process that died: entries pending and parked, an open and a closed gap."""
    directory = tmp_path_factory.mktemp("original")
    with outbox(directory, table(keep_documents=True)) as made:
        made.step(made.opened(), made.batch(initial(A1)), made.ready())
        made.step(made.batch(change(A1, A2), add(B1)))
        made.step(made.closed(Cause.OVERFLOW), made.opened(), made.batch(initial(A2)), made.ready())
        made.step(outcomes=[Outcomes(parked=[Failure(2, "too_large", "it is too large")])])
        made.step(made.closed(Cause.DISCONNECT))
        request_resync(made.database, "db.t")
        entries.park(made.database, [1, 3])
        entries.redrive(made.database, [1, 3])
    return directory / "outbox.db"


@pytest.fixture
def damaged(original: Path, tmp_path: Path) -> Path:
    """A fresh copy of it, for each example that asks with `renew`."""
    path = tmp_path / "outbox.db"
    renew(original, path)
    return path


def renew(original: Path, path: Path) -> None:
    for old in path.parent.glob(path.name + "*"):
        old.unlink()
    shutil.copyfile(original, path)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    for variable in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    with command_line(monkeypatch, capsys) as run:
        yield run


def assert_is_clear(done: Done) -> None:
    """Accept a result in the promised form, or one line of error with its hint."""
    assert "Traceback" not in done.err
    assert done.status in (0, 1, 2)
    if done.status:
        lines = done.err.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"], done.err
        assert done.out == ""


def change_row(path: Path, where: tuple[str, str], row: int, value: object) -> None:
    """Write a value past all checks, as another program could."""
    name, column = where
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA writable_schema = ON")
        # NOT NULL is a check of the schema's text alone.
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
        connection.execute("PRAGMA writable_schema = RESET")
        rows = connection.execute(f"SELECT rowid FROM {name} ORDER BY rowid").fetchall()
        (number,) = rows[row % len(rows)]
        connection.execute(f"UPDATE {name} SET {column} = ? WHERE rowid = ?", (value, number))
    except sqlite3.IntegrityError:
        pass  # a unique index, or a row id that must be a number: no program can write this
    finally:
        connection.close()


def run_store(path: Path) -> None:
    """Do what a service does with an outbox: start, hand over, take a whole snapshot in."""
    made = Outbox(path, table(keep_documents=True), now=1_800_000_000 * SECOND)
    made.store.stop()  # what is tried again for ever is tried once
    try:
        made.step()
        (number,) = made.store.status.feeds
        batch = made.batch(initial(A1), initial({"id": "new"}), feed_id=number)
        made.step(made.opened(feed_id=number), batch, made.ready(number))
        made.step()
        for entry in made.sink.entries:
            assert isinstance(entry.body, bytes)
            json.loads(entry.key)
        made.settle(*made.sink.entries)
        assert made.store.outbox_id
    finally:
        made.close()


def refused_by_store(path: Path) -> OutboxUnusable | OutboxUnavailable | None:
    try:
        run_store(path)
    except (OutboxUnusable, OutboxUnavailable) as err:
        return err
    return None


@fuzz
@given(
    where=st.sampled_from(COLUMNS),
    row=st.integers(0, 4),
    value=VALUES,
    command=st.sampled_from([*COMMANDS, ["migrate"]]),
)
def test_any_value_in_any_column_is_read_or_refused(
    where: tuple[str, str],
    row: int,
    value: object,
    command: list[str],
    original: Path,
    damaged: Path,
    cli: Command,
) -> None:
    renew(original, damaged)
    change_row(damaged, where, row, value)

    done = cli(*command, "--json")
    assert_is_clear(done)
    if done.status == 0:
        is_list = command[1:] in (["list"], ["stats"], ["gaps"], ["history"])
        is_list = is_list or "redrive" in command
        assert all(isinstance(each, dict) for each in (done.objects if is_list else [done.object]))
    assert_is_clear(cli(*command))
    refused = refused_by_store(damaged)
    assert refused is None or (refused.hint and len(str(refused).splitlines()) == 1)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE entries SET op = 'upsert'", "in its table entries, row 1: Invalid enum value"),
        ("UPDATE entries SET body = 7", "row 1: Expected `bytes`, got `int`"),
        ("UPDATE entries SET key = '{'", "in its table entries, a key is not JSON: '{'"),
        ("UPDATE entries SET captured_at = -1", "a value: Expected `int` >= 0"),
        ("UPDATE entries SET state = 'lost'", "Invalid enum value 'lost'"),
        ("UPDATE entries SET feed_id = 99", "row 1: its feed is missing"),
        ("UPDATE meta SET last_entry = 1", "row 4: 1 is the last number given out"),
        ("DELETE FROM meta", "row 4: 0 is the last number given out"),
        ("UPDATE meta SET outbox_id = 'X'", "in its table meta, a value"),
        ("UPDATE documents SET key = x'00'", "in its table documents, row"),
        ("UPDATE gaps SET cause = 'war'", "in its table gaps"),
        ("UPDATE gaps SET closed_at = NULL", "the feed 1 has two open gaps"),
        ("UPDATE feeds SET captured = 'x'", "in its table feeds, row 1: Expected `int`"),
        ("UPDATE feeds SET guard = '[]'", "in its table feeds, a guard is unreadable"),
        ("INSERT INTO alembic_version VALUES ('x')", "there is more than one row"),
    ],
)  # fmt: skip
def test_a_row_that_is_none_of_ours_is_named(statement: str, complaint: str, damaged: Path) -> None:
    connection = sqlite3.connect(damaged, isolation_level=None)
    connection.execute(statement)
    connection.close()
    with pytest.raises(OutboxUnusable) as refused:
        run_store(damaged)

    assert complaint in str(refused.value)
    assert refused.value.hint


def test_a_body_that_is_no_json_is_published_and_shown_as_it_is(
    damaged: Path, cli: Command
) -> None:
    connection = sqlite3.connect(damaged, isolation_level=None)
    for number, body in ((1, b'\xff{"a'), (3, b'{"old_val":NaN}')):
        connection.execute("UPDATE entries SET body = ? WHERE id = ?", (body, number))
    connection.close()

    assert '\ufffd{"a' in cli("outbox", "show", "1").out
    assert cli("outbox", "show", "1", "--json").object["body"] == '\ufffd{"a'
    assert cli("outbox", "show", "3", "--json").object["body"] == '{"old_val":NaN}'
    made = Outbox(damaged, table())
    made.step()
    made.close()
    published = {entry.number: entry.body for entry in made.sink.entries}
    assert (published[1], published[3]) == (b'\xff{"a', b'{"old_val":NaN}')


@fuzz
@given(data=st.data())
def test_a_file_that_was_cut_or_overwritten_is_read_or_refused(
    data: st.DataObject, original: Path, damaged: Path, cli: Command
) -> None:
    renew(original, damaged)
    content = bytearray(original.read_bytes())
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content)), "at") :]
    else:
        for start in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4), "starts"):
            junk = data.draw(st.binary(min_size=1, max_size=64) | st.just(bytes(4096)), "junk")
            content[start : start + len(junk)] = junk
    damaged.write_bytes(content)

    command = data.draw(
        st.sampled_from([*COMMANDS, ["migrate"], ["feed", "baseline", "db.t", "--yes"]])
    )
    assert_is_clear(cli(*command, *(["--json"] if data.draw(st.booleans()) else [])))
    refused = refused_by_store(damaged)
    assert refused is None or refused.hint


@fuzz
@given(wal=st.binary(max_size=200), shm=st.binary(max_size=200), lock=st.binary(max_size=40))
def test_anything_in_the_files_beside_it_is_survived(
    wal: bytes, shm: bytes, lock: bytes, original: Path, damaged: Path, cli: Command
) -> None:
    renew(original, damaged)
    for ending, content in (("-wal", wal), ("-shm", shm), (".lock", lock)):
        damaged.with_name(damaged.name + ending).write_bytes(content)

    assert [entry["id"] for entry in cli("outbox", "list", "--json").objects] == [1, 2, 3, 4]
    assert_is_clear(cli("status"))


REFUSED = {
    "empty": "",
    "another program's": "CREATE TABLE theirs (id INTEGER)",
    "newer": "CREATE TABLE alembic_version (version_num TEXT); "
    "INSERT INTO alembic_version VALUES ('9999')",
    "no tables left": "CREATE TABLE alembic_version (version_num TEXT); "
    "INSERT INTO alembic_version VALUES ('0001')",
    "a view of our name": "CREATE TABLE alembic_version (version_num TEXT); "
    "INSERT INTO alembic_version VALUES ('0001'); CREATE VIEW entries AS SELECT 1 AS id",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("command", [*COMMANDS, ["check"]], ids=" ".join)
def test_another_database_is_refused(
    kind: str, command: list[str], tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    path.touch()
    connection = sqlite3.connect(path)
    connection.executescript(REFUSED[kind])
    connection.close()
    # Nobody listens here: the rest of the preflight fails at once.
    port = free_port()
    monkeypatch.setenv("REPLICATOR_RETHINKDB__URL", f"rethinkdb://127.0.0.1:{port}")
    monkeypatch.setenv("REPLICATOR_RABBITMQ__URL", f"amqp://127.0.0.1:{port}")

    done = cli(*command)

    if command == ["check"]:
        assert "Traceback" not in done.err
        assert "outbox: " in done.out
        assert done.status == 2
    else:
        assert done.status in (1, 2)
        assert_is_clear(done)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE entries SET op = 'upsert'", "the outbox is damaged: in its table entries"),
        ("DROP TABLE entries", "no such table: entries"),
    ],
)
def test_a_service_ends_on_a_damaged_outbox_with_one_line(
    statement: str, complaint: str, damaged: Path, tmp_path: Path
) -> None:
    connection = sqlite3.connect(damaged, isolation_level=None)
    connection.execute(statement)
    connection.close()
    nobody = free_port()
    settings = {
        "TABLES": "db.t",
        "RETHINKDB__URL": f"rethinkdb://127.0.0.1:{nobody}",
        "RABBITMQ__URL": f"amqp://127.0.0.1:{nobody}",
    }
    replicator = ReplicatorProcess(tmp_path, settings)
    try:
        replicator.start()
        status = replicator.wait()
    finally:
        replicator.close()

    errors = [line for line in last_words(replicator.log()) if line.startswith("error: ")]
    assert len(errors) == 1, replicator.log()
    assert complaint in errors[0]
    assert "Traceback" not in replicator.log()
    assert status == 2
