"""What a feed shows of a table: fields, documents and keys of every type, byte for byte."""

import datetime as dt
import json
from typing import Any

import pytest
from replicator_sandbox.storage import SERVER_NAME
from rethinkdb import r

from replicator.domain.feed_element import Change, key_reader
from replicator.domain.model import TableName
from replicator.errors import SettingsInvalid
from replicator.source.projection import FieldRules
from tests.support.reading import RunningReader, new_table, server_of
from tests.support.servers import RethinkServer

pytestmark = pytest.mark.usefixtures("impatient")


def values(changes: list[Change]) -> list[tuple[str, Any, Any]]:
    return [
        (
            change.type,
            json.loads(bytes(change.old_val) or b"null"),
            json.loads(bytes(change.new_val) or b"null"),
        )
        for change in changes
    ]


@pytest.mark.parametrize(
    "fields",
    [FieldRules(include=[("a",)]), FieldRules(exclude=[("secret",), ("nothing has this",)])],
)
def test_fields_that_are_left_out_never_leave_the_server(
    server: RethinkServer, name: TableName, table: Any, driver: Any, fields: FieldRules
) -> None:
    table.insert({"id": 1, "a": 1, "secret": "x"}).run(driver)
    with RunningReader(server_of(server), name, fields) as reader:
        reader.wait_until_ready()
        table.get(1).update({"secret": "y"}).run(driver)  # no change, as far as anybody sees
        table.get(1).update({"a": 2, "secret": "z"}).run(driver)
        table.get(1).delete().run(driver)
        changes = reader.wait_for_changes(3)
    assert values(changes) == [
        ("initial", None, {"id": 1, "a": 1}),
        ("change", {"id": 1, "a": 1}, {"id": 1, "a": 2}),
        ("remove", {"id": 1, "a": 2}, None),
    ]


def test_a_field_within_objects_is_left_out_of_old_and_new_and_the_bytes_stay_comparable(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    cards = [{"number": 1, "é": 2.5}, None, {"owner": {"number": "kept"}}]
    table.insert({"id": 1, "cards": cards}).run(driver)
    fields = FieldRules(exclude=[("cards", "number"), ("secret",)])
    with RunningReader(server_of(server), name, fields) as reader:
        reader.wait_until_ready()
        table.get(1).update({"secret": 1}).run(driver)  # no change, as far as anybody sees
        table.get(1).update({"a": 1}).run(driver)
        initial, change = reader.wait_for_changes(2)
    assert b'"number":1' not in bytes(initial.new_val)
    assert bytes(initial.new_val) == bytes(change.old_val)
    assert json.loads(bytes(change.new_val)) == {
        "id": 1,
        "a": 1,
        "cards": [{"é": 2.5}, None, {"owner": {"number": "kept"}}],
    }


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (FieldRules(exclude=[("a",), ("id",)]), "exclude_fields names 'id'"),
        (FieldRules(exclude=[("id", "x.y")]), r"exclude_fields names 'id.x\\.y'"),
        (FieldRules(include=[("id", "x")]), "include_fields names 'id.x'"),
    ],
)
def test_the_primary_key_can_not_be_excluded(
    server: RethinkServer, name: TableName, fields: FieldRules, complaint: str
) -> None:
    with RunningReader(server_of(server), name, fields) as reader:
        error = reader.wait_for_refusal()
    assert isinstance(error, SettingsInvalid)
    assert f"tables[{name}].{complaint}, and 'id' is the table's primary key" in str(error)
    assert reader.opened == []


@pytest.mark.parametrize("primary_key", ["_key", "my id", 'a"b\\c', "ключ", "type", "new_val", "é"])
def test_a_primary_key_may_have_any_name(
    server: RethinkServer, driver: Any, primary_key: str
) -> None:
    name = new_table(driver, primary_key)
    table = r.db(name.database).table(name.table)
    try:
        table.insert({primary_key: "k", "a": 1, "b": 1}).run(driver)
        with RunningReader(server_of(server), name, FieldRules(include=[("a",)])) as reader:
            reader.wait_until_ready()
            table.get("k").update({"a": 2}).run(driver)
            changes = reader.wait_for_changes(2)
            read_key = key_reader(reader.opened[0].primary_key)
    finally:
        r.db_drop(name.database).run(driver)
    assert reader.opened[0].primary_key == primary_key
    assert [read_key(change.new_val) for change in changes] == ['"k"', '"k"']
    assert json.loads(bytes(changes[1].new_val)) == {primary_key: "k", "a": 2}


def _is_embedded(driver: Any) -> bool:
    return bool(driver.server()["name"] == SERVER_NAME)


def _every_type() -> dict[str, Any]:
    zone = dt.timezone(dt.timedelta(hours=-5, minutes=-30))
    return {
        "id": "x",
        "null": None,
        "true": True,
        "numbers": [0, -1, 1.5, 2**53, 2**54, 1e300, 1e-7, -0.0, 0.1],
        "text": 'ü €😀 "\\/\u0001\n\t\u0000 </script>',
        "empty": ["", [], {}],
        "nested": {"b": [{"a": {"z": 1, "a": 2}}], "a": None},
        "time": dt.datetime(2020, 1, 1, 12, 30, 0, 123000, zone),
        "far": {"$reql_type$": "TIME", "epoch_time": 253402300799.999, "timezone": "+00:00"},
        "binary": r.binary(bytes(range(256))),
    }


def test_documents_of_every_type_have_the_same_bytes_in_snapshot_and_feed(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    document = _every_type()
    if not _is_embedded(driver):  # it knows no geometry
        document["place"] = r.polygon([0, 0], [0, 1.5], [2, 2])
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        table.insert(document).run(driver)
        table.get("x").update({"n": 1}).run(driver)
        added, changed = reader.wait_for_changes(2)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        (initial,) = reader.changes
        table.get("x").delete().run(driver)
        _, removed = reader.wait_for_changes(2)
    raw = table.get("x")
    assert raw.run(driver) is None
    assert bytes(added.new_val) == bytes(changed.old_val)
    assert bytes(changed.new_val) == bytes(initial.new_val) == bytes(removed.old_val)
    shown = json.loads(bytes(initial.new_val))
    assert shown["text"] == document["text"]
    assert shown["numbers"] == document["numbers"]
    assert shown["nested"] == document["nested"]
    assert shown["time"]["$reql_type$"] == "TIME"
    assert shown["time"]["timezone"] == "-05:30"
    assert shown["far"]["epoch_time"] == 253402300799.999
    assert shown["binary"]["$reql_type$"] == "BINARY"
    assert set(shown) == {*document, "n"}


_KEYS: list[Any] = [
    "",
    "a",
    "x" * 127,
    "é" * 63,
    'quote" back\\ slash/ -0.0 TIME',
    0,
    1,
    -1.5,
    0.1,
    2**53,
    1e300,
    True,
    False,
    r.binary(b"\x00\xff-0"),
    r.epoch_time(5),
    r.epoch_time(-1.25),
    [1, "a", [True, 2.5]],
    ["-0"],
    [r.epoch_time(5), 0],
]


def test_a_key_of_any_type_has_one_text_wherever_its_document_appears(
    server: RethinkServer, name: TableName, table: Any, driver: Any
) -> None:
    documents = [{"id": key, "n": number} for number, key in enumerate(_KEYS)]
    assert table.insert(documents).run(driver)["inserted"] == len(_KEYS)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        for key in _KEYS:
            table.get(key).update({"again": True}).run(driver)
        table.delete().run(driver)
        changes = reader.wait_for_changes(3 * len(_KEYS))
        read_key = key_reader(reader.opened[0].primary_key)
    texts: dict[int, set[str]] = {}
    for change in changes:
        for value in (bytes(change.old_val), bytes(change.new_val)):
            if value not in (b"", b"null"):
                texts.setdefault(json.loads(value)["n"], set()).add(
                    read_key(change.old_val if value == bytes(change.old_val) else change.new_val)
                )
    assert [len(each) for each in texts.values()] == [1] * len(_KEYS)
    assert len({text for each in texts.values() for text in each}) == len(_KEYS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r.epoch_time(5), r.epoch_time(5).in_timezone("+01:00")),
        ([r.epoch_time(5)], [r.epoch_time(5).in_timezone("-05:30")]),
        (0, -0.0),
        (-0.0, 0),
        ([1, -0.0], [1, 0]),
        (1, 1.0),
    ],
)
def test_two_spellings_of_one_key_are_one_document(
    server: RethinkServer, name: TableName, table: Any, driver: Any, first: Any, second: Any
) -> None:
    table.insert({"id": first, "n": 1}).run(driver)
    with RunningReader(server_of(server), name) as reader:
        reader.wait_until_ready()
        done = table.insert({"id": second, "n": 2}, conflict="replace").run(driver)
        assert done["replaced"] == 1
        table.get(first).delete().run(driver)
        changes = reader.wait_for_changes(3)
        read_key = key_reader(reader.opened[0].primary_key)
    assert [change.type for change in changes] == ["initial", "change", "remove"]
    shown = [changes[0].new_val, changes[1].old_val, changes[1].new_val, changes[2].old_val]
    assert len({read_key(value) for value in shown}) == 1
