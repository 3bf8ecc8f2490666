"""Rows that no outbox writes are refused; the primary key's name goes in and out whole."""

import json
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from replicator.cli.output import raw_or_text, to_json
from replicator.domain.envelope import key_document
from replicator.domain.feed_element import decode_response, key_reader
from replicator.domain.model import Count, Instant
from replicator.errors import OutboxUnusable
from replicator.outbox import feeds
from replicator.outbox.opening import open_database
from replicator.outbox.records import sound, sound_key
from tests.support.feed_elements import initial
from tests.support.outbox import outbox

HALF = "\udc4b hello"


class Row(NamedTuple):
    id: int
    count: Count
    at: Instant | None
    body: bytes


def test_rows_come_in_their_shape() -> None:
    assert sound([(1, 2, None, b"x"), (2, 0, 5, b"")], Row, "t") == [
        Row(1, 2, None, b"x"),
        Row(2, 0, 5, b""),
    ]


@pytest.mark.parametrize(
    "row",
    [(7, "2", 3, b""), (7, -1, 3, b""), (7, 1, 10**18, b""), (7, 1, 3, "eA=="), (7, 1, 3, None)],
)
def test_a_row_of_another_shape_is_named(row: tuple[object, ...]) -> None:
    with pytest.raises(OutboxUnusable, match="in its table t, row 7: Expected") as refused:
        sound([(1, 2, None, b"x"), row], Row, "t")
    assert refused.value.hint


@pytest.mark.parametrize("key", ['"a"', "1", "[1,[true]]", '"\\udc4b hello"'])
def test_a_key_is_json(key: str) -> None:
    assert sound_key(key, "entries") == key


@pytest.mark.parametrize("key", ["", "{", "a", '"a', "[" * 100_000])
def test_a_key_that_is_no_json_is_refused(key: str) -> None:
    with pytest.raises(OutboxUnusable, match="a key is not JSON"):
        sound_key(key, "entries")


@pytest.mark.parametrize("name", [HALF, '"quoted"', '"', "id", "", f'"{HALF}'])
def test_a_primary_key_of_any_name_survives_a_restart(name: str, tmp_path: Path) -> None:
    with outbox(tmp_path) as made:
        made.step(made.opened(key=name), made.batch(initial({name: 1})), made.ready())
        again = made.restart()
        try:
            assert again.feed().rules.primary_key == name or name == ""
            assert again.feed().indexed_key == name
            # All that is known of a document that is gone is its key, and under which name.
            again.step(again.opened(key=name), again.ready())
            assert again.sink.said()[-1] == (
                "delete",
                "resync",
                {"old_val": {name: 1}, "new_val": None},
            )
        finally:
            again.close()


def test_documents_of_a_primary_key_without_a_name_are_deleted_under_it(tmp_path: Path) -> None:
    with outbox(tmp_path) as made:
        made.step(made.opened(key=""), made.batch(initial({"": 1})), made.ready())
        # The table was dropped and created again, with another primary key.
        made.step(
            made.closed(), made.opened("T2", "id"), made.batch(initial({"id": 2})), made.ready()
        )
        assert made.sink.said()[-1][2] == {"old_val": {"": 1}, "new_val": None}


def test_a_name_that_an_older_version_wrote_is_read_as_it_stands() -> None:
    assert feeds._read_name('"broken') == '"broken'


def test_half_a_surrogate_pair_in_the_primary_key_s_name_is_found_and_written() -> None:
    raw = msgspec.Raw(json.dumps({HALF: 7, "x": 1}).encode())

    assert key_reader(HALF)(raw) == "7"
    assert json.loads(key_document(HALF, "7")) == {HALF: 7}
    with pytest.raises(msgspec.ValidationError):
        key_reader(HALF)(msgspec.Raw(b'{"x":1}'))
    with pytest.raises(msgspec.ValidationError):
        key_reader('a"b')(msgspec.Raw(b'{"x":1}'))


@pytest.mark.parametrize(
    "text",
    [
        '{"t":3,"r":[{"new_val":"\\udc4b","type":null}]}',
        '{"t":2,"r":[null]}',
        '{"t":3}',
        '{"t":1,"r":null}',
        "[]",
        '{"r":[]}',
        '{"t":3,"r":["\\ud83d"]}',
    ],
)
def test_what_the_driver_would_die_of_is_no_response(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_response(text)


@pytest.mark.parametrize("body", [b"\xff", b"{", b'{"a":NaN}', b"[" * 100_000, b""])
def test_what_is_no_json_is_shown_as_text(body: bytes) -> None:
    assert raw_or_text(body) == body.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "body", [b'{"a":1}', b'{"a":"\\ud83d"}', b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"]
)
def test_json_is_shown_as_it_stands(body: bytes) -> None:
    assert bytes(raw_or_text(body)) == body  # type: ignore[arg-type]


def test_bytes_of_an_argument_that_are_no_text_are_written_as_escapes() -> None:
    facts = {"path": "x\udcff", "more": ["\udcff", 1], "raw": msgspec.Raw(b"[1]")}

    assert json.loads(to_json(facts)) == {"path": "x\\udcff", "more": ["\\udcff", 1], "raw": [1]}


@pytest.mark.parametrize("junk", [b"\x80", b"`\n\n"])
def test_a_schema_that_is_no_text_is_refused_in_one_line(junk: bytes, tmp_path: Path) -> None:
    with outbox(tmp_path) as made:
        path = made.path
    content = bytearray(path.read_bytes())
    start = content.index(b"CREATE TABLE entries") + 20
    content[start : start + len(junk)] = junk
    path.write_bytes(content)

    with pytest.raises(OutboxUnusable) as refused, open_database(f"sqlite:///{path}").reading():
        pytest.fail("it was read")

    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE meta SET last_entry = {}", "UPDATE documents SET id = {}"]
)
def test_a_number_that_leaves_no_room_to_count_on_is_refused(
    statement: str, tmp_path: Path
) -> None:
    with outbox(tmp_path) as made:
        made.step(made.opened(), made.batch(initial({"id": 1})), made.ready())
        with made.engine.begin() as connection:
            connection.exec_driver_sql(statement.format(2**63 - 1))
        with pytest.raises(OutboxUnusable, match="damaged"):
            made.restart()
