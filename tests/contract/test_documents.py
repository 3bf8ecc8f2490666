"""Writing and reading documents, as the Python driver sees it."""

from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlNonExistenceError, ReqlOpFailedError, ReqlQueryLogicError

NOTHING = {
    "deleted": 0,
    "errors": 0,
    "inserted": 0,
    "replaced": 0,
    "skipped": 0,
    "unchanged": 0,
}


def _ids(rows: Any) -> list[Any]:
    return sorted(row["id"] for row in rows)


def test_an_inserted_document_can_be_read(conn: Any, table: Any) -> None:
    document = {"id": 1, "name": "ä", "nested": {"list": [1, 2.5, None, True, "x"]}}
    assert table.insert(document).run(conn) == {**NOTHING, "inserted": 1}
    assert table.get(1).run(conn) == document


def test_a_missing_document_is_none(conn: Any, table: Any) -> None:
    assert table.get("nothing").run(conn) is None


def test_a_document_without_a_key_gets_a_uuid(conn: Any, table: Any) -> None:
    result = table.insert([{"a": 1}, {"a": 2}]).run(conn)
    assert result["inserted"] == 2
    assert len(result["generated_keys"]) == 2
    assert table.get(result["generated_keys"][0]).run(conn)["a"] == 1


def test_inserting_an_existing_key_is_an_error_that_shows_both(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "a": 1}).run(conn)
    result = table.insert([{"id": 1, "a": 2}, {"id": 2}]).run(conn)
    assert (result["errors"], result["inserted"]) == (1, 1)
    assert result["first_error"] == (
        'Duplicate primary key `id`:\n{\n\t"a":\t1,\n\t"id":\t1\n}\n{\n\t"a":\t2,\n\t"id":\t1\n}'
    )
    assert table.get(1).run(conn) == {"id": 1, "a": 1}


@pytest.mark.parametrize(
    ("conflict", "kept", "outcome"),
    [
        ("replace", {"id": 1, "b": 2}, "replaced"),
        ("update", {"id": 1, "a": 1, "b": 2}, "replaced"),
        ("error", {"id": 1, "a": 1}, "errors"),
    ],
)
def test_a_conflict_is_resolved_as_asked(
    conn: Any, table: Any, conflict: str, kept: dict[str, Any], outcome: str
) -> None:
    table.insert({"id": 1, "a": 1}).run(conn)
    result = table.insert({"id": 1, "b": 2}, conflict=conflict).run(conn)
    assert result[outcome] == 1
    assert table.get(1).run(conn) == kept


def test_a_conflict_can_be_resolved_by_a_function(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "n": 1}).run(conn)
    table.insert(
        {"id": 1, "n": 5},
        conflict=lambda key, old, new: {"id": 1, "key": key, "n": old["n"] + new["n"]},
    ).run(conn)
    assert table.get(1).run(conn) == {"id": 1, "key": "id", "n": 6}


def test_an_unknown_conflict_mode_is_refused(conn: Any, table: Any) -> None:
    with pytest.raises(ReqlQueryLogicError, match="Conflict option `x` unrecognized"):
        table.insert({"id": 1}, conflict="x").run(conn)


def test_writing_the_same_document_again_is_unchanged(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "a": 1}).run(conn)
    result = table.insert({"id": 1, "a": 1}, conflict="replace").run(conn)
    assert result == {**NOTHING, "unchanged": 1}


def test_changes_are_returned_when_asked_for(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "a": 1}).run(conn)
    result = table.get(1).update({"a": 2}, return_changes=True).run(conn)
    assert result["changes"] == [{"old_val": {"id": 1, "a": 1}, "new_val": {"id": 1, "a": 2}}]
    assert table.get(1).update({"a": 2}, return_changes=True).run(conn)["changes"] == []
    always = table.get(1).update({"a": 2}, return_changes="always").run(conn)
    assert always["changes"] == [{"old_val": {"id": 1, "a": 2}, "new_val": {"id": 1, "a": 2}}]


def test_an_update_merges_objects(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "a": {"x": 1, "y": 2}}).run(conn)
    table.get(1).update({"a": {"y": 3, "z": 4}}).run(conn)
    assert table.get(1).run(conn) == {"id": 1, "a": {"x": 1, "y": 3, "z": 4}}


def test_a_literal_replaces_instead_of_merging(conn: Any, table: Any) -> None:
    table.insert({"id": 1, "a": {"x": 1}, "b": 1}).run(conn)
    table.get(1).update({"a": r.literal({"y": 2}), "b": r.literal()}).run(conn)
    assert table.get(1).run(conn) == {"id": 1, "a": {"y": 2}}


def test_an_update_can_compute_from_the_document(conn: Any, table: Any) -> None:
    table.insert([{"id": 1, "n": 1}, {"id": 2}]).run(conn)
    result = table.update(lambda row: {"n": row["n"].default(10) + 1}).run(conn)
    assert result["replaced"] == 2
    assert table.get(1).run(conn)["n"] == 2
    assert table.get(2).run(conn)["n"] == 11


def test_an_update_that_fails_for_a_document_counts_as_its_error(conn: Any, table: Any) -> None:
    table.insert([{"id": 1, "n": "x"}, {"id": 2, "n": 2}]).run(conn)
    result = table.update(lambda row: {"n": row["n"] + 1}).run(conn)
    assert (result["errors"], result["replaced"]) == (1, 1)
    assert result["first_error"] == "Expected type STRING but found NUMBER."


def test_a_chance_function_needs_non_atomic(conn: Any, table: Any) -> None:
    table.insert({"id": 1}).run(conn)
    with pytest.raises(ReqlQueryLogicError, match="Could not prove argument deterministic"):
        table.get(1).update({"a": r.uuid()}).run(conn)
    assert table.get(1).update({"a": r.uuid()}, non_atomic=True).run(conn)["replaced"] == 1


def test_updating_a_missing_document_is_skipped(conn: Any, table: Any) -> None:
    assert table.get(1).update({"a": 1}).run(conn) == {**NOTHING, "skipped": 1}


def test_replace_inserts_replaces_and_deletes(conn: Any, table: Any) -> None:
    assert table.get(1).replace({"id": 1}).run(conn)["inserted"] == 1
    assert table.get(1).replace({"id": 1, "a": 1}).run(conn)["replaced"] == 1
    assert table.get(1).replace(None).run(conn)["deleted"] == 1
    assert table.get(1).replace(None).run(conn)["skipped"] == 1


def test_the_primary_key_cannot_be_changed(conn: Any, table: Any) -> None:
    table.insert({"id": 1}).run(conn)
    result = table.get(1).update({"id": 2}).run(conn)
    assert result["first_error"] == (
        'Primary key `id` cannot be changed (`{\n\t"id":\t1\n}` -> `{\n\t"id":\t2\n}`).'
    )
    result = table.get(1).replace({"a": 1}).run(conn)
    assert "Inserted object must have primary key `id`" in result["first_error"]


def test_only_objects_are_documents(conn: Any, table: Any) -> None:
    result = table.insert([5, {"id": 1}]).run(conn)
    assert (result["errors"], result["inserted"]) == (1, 1)
    assert result["first_error"] == "Expected type OBJECT but found NUMBER."
    with pytest.raises(ReqlQueryLogicError, match="Cannot convert NUMBER to SEQUENCE"):
        table.insert(5).run(conn)


def test_documents_are_deleted_by_selection(conn: Any, table: Any) -> None:
    table.insert([{"id": number} for number in range(10)]).run(conn)
    assert table.get(0).delete().run(conn)["deleted"] == 1
    assert table.between(1, 4).delete().run(conn)["deleted"] == 3
    assert table.get_all(4, 99).delete().run(conn)["deleted"] == 1
    assert table.filter({"id": 5}).delete().run(conn)["deleted"] == 1
    assert _ids(table.run(conn)) == [6, 7, 8, 9]
    assert table.delete().run(conn)["deleted"] == 4
    assert table.count().run(conn) == 0


def test_get_all_returns_a_document_as_often_as_its_key_was_given(conn: Any, table: Any) -> None:
    table.insert([{"id": 1}, {"id": 2}]).run(conn)
    assert _ids(table.get_all(1, 2, 1, 3).run(conn)) == [1, 1, 2]


def test_between_is_closed_on_the_left_and_open_on_the_right(conn: Any, table: Any) -> None:
    table.insert([{"id": number} for number in range(5)]).run(conn)
    assert _ids(table.between(1, 3).run(conn)) == [1, 2]
    closed = table.between(1, 3, left_bound="open", right_bound="closed")
    assert _ids(closed.run(conn)) == [2, 3]
    assert _ids(table.between(r.minval, 2).run(conn)) == [0, 1]
    assert _ids(table.between(2, r.maxval).run(conn)) == [2, 3, 4]
    assert _ids(table.between(3, 1).run(conn)) == []


def test_filter_by_object_and_by_function(conn: Any, table: Any) -> None:
    table.insert(
        [{"id": 1, "a": {"b": 1, "c": 1}}, {"id": 2, "a": {"b": 2}, "n": 5}, {"id": 3}]
    ).run(conn)
    assert _ids(table.filter({"a": {"b": 1}}).run(conn)) == [1]
    assert _ids(table.filter(r.row["n"] > 4).run(conn)) == [2]
    either = table.filter(lambda row: (row["a"]["b"] == 1) | (row["a"]["b"] == 2))
    assert _ids(either.run(conn)) == [1, 2]
    assert _ids(table.filter(r.row["n"] > 4, default=True).run(conn)) == [1, 2, 3]
    assert _ids(table.filter(~r.row.has_fields("n")).run(conn)) == [1, 3]


def test_order_limit_pluck_without_and_merge(conn: Any, table: Any) -> None:
    table.insert([{"id": number, "a": {"x": 1, "y": 2}} for number in range(4)]).run(conn)
    ordered = table.order_by(r.desc("id")).limit(2).pluck("id").run(conn)
    assert list(ordered) == [{"id": 3}, {"id": 2}]
    assert table.get(0).pluck({"a": "x"}).run(conn) == {"a": {"x": 1}}
    assert table.get(0).without({"a": "x"}).run(conn) == {"id": 0, "a": {"y": 2}}
    merged = table.get(0).merge({"a": {"y": 3}, "b": 1}).run(conn)
    assert merged == {"id": 0, "a": {"x": 1, "y": 3}, "b": 1}
    keyed = table.order_by(index="id").run(conn)
    assert [row["id"] for row in keyed] == [0, 1, 2, 3]


def test_a_large_result_comes_whole_over_many_batches(conn: Any, table: Any) -> None:
    table.insert([{"id": number, "text": "x" * 1000} for number in range(5000)]).run(conn)
    assert _ids(table.run(conn)) == list(range(5000))
    assert len(list(table.limit(10).run(conn, max_batch_rows=3))) == 10


def test_for_each_adds_up_what_its_writes_report(conn: Any, table: Any) -> None:
    result = r.expr([1, 2, 2]).for_each(lambda key: table.insert({"id": key})).run(conn)
    assert (result["inserted"], result["errors"]) == (2, 1)


def test_only_objects_have_fields(conn: Any, table: Any) -> None:
    table.insert({"id": 1}).run(conn)
    for query in (r.expr(1).pluck("a"), table.map(lambda row: row["id"]).without("a")):
        with pytest.raises(ReqlQueryLogicError, match="on a non-object non-sequence `1`"):
            list(query.run(conn))


def test_a_missing_field_is_a_non_existence_error(conn: Any, table: Any) -> None:
    table.insert({"id": 1}).run(conn)
    with pytest.raises(ReqlNonExistenceError, match="No attribute `b` in object"):
        table.get(1)["b"].run(conn)
    assert table.get(1)["b"].default(7).run(conn) == 7


def test_missing_tables_and_databases_are_failed_operations(conn: Any, db_name: str) -> None:
    with pytest.raises(ReqlOpFailedError, match=rf"Table `{db_name}\.no` does not exist"):
        r.db(db_name).table("no").run(conn)
    with pytest.raises(ReqlOpFailedError, match=r"Database `no_such_db` does not exist"):
        r.db("no_such_db").table("no").run(conn)
    with pytest.raises(ReqlOpFailedError, match=rf"Table `{db_name}\.no` does not exist"):
        r.table("no").run(conn, db=db_name)


def test_creating_what_exists_is_a_failed_operation(conn: Any, table: Any, db_name: str) -> None:
    assert table.count().run(conn) == 0
    with pytest.raises(ReqlOpFailedError, match="already exists"):
        r.db(db_name).table_create("things").run(conn)
    with pytest.raises(ReqlOpFailedError, match="already exists"):
        r.db_create(db_name).run(conn)


def test_a_table_may_have_another_primary_key(conn: Any, db_name: str) -> None:
    made = r.db(db_name).table_create("keyed", primary_key="code").run(conn)
    assert made["config_changes"][0]["new_val"]["primary_key"] == "code"
    keyed = r.db(db_name).table("keyed")
    keyed.insert({"code": "a"}).run(conn)
    assert keyed.get("a").run(conn) == {"code": "a"}
    assert keyed.info().run(conn)["primary_key"] == "code"


def test_two_connections_see_each_others_writes(connect: Any, conn: Any, table: Any) -> None:
    table.insert({"id": 1, "n": 0}).run(conn)
    other = connect()
    for _ in range(10):
        table.get(1).update({"n": r.row["n"] + 1}).run(conn)
        table.get(1).update({"n": r.row["n"] + 1}).run(other)
    assert table.get(1).run(conn)["n"] == 20
