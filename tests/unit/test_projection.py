"""The query of a table with only the fields that are wanted; tests/contract has what it returns."""

import pytest
from rethinkdb import r

from replicator.domain.model import TableName
from replicator.errors import SettingsInvalid
from replicator.source.projection import FieldRules, projected

NAME = TableName("shop", "orders")
TABLE = r.db("shop").table("orders")


def query(fields: FieldRules, primary_key: str = "id") -> str:
    return str(projected(TABLE, fields, primary_key, NAME)).removeprefix(str(TABLE))


def test_without_rules_the_table_is_read_whole() -> None:
    assert projected(TABLE, FieldRules(), "id", NAME) is TABLE


def test_names_alone_are_left_to_rethinkdb() -> None:
    assert query(FieldRules(exclude=[("a",), ("b.c",)])) == ".without('a', 'b.c')"


def test_the_primary_key_is_always_included() -> None:
    assert query(FieldRules(include=[("a",), ("id",)])) == ".pluck('id', r.expr({'a': True}))"


def test_a_primary_key_that_is_half_a_surrogate_pair_can_be_sent() -> None:
    assert query(FieldRules(include=[("a",)]), "\ud83d").startswith(".pluck(r.json(")


@pytest.mark.parametrize(
    "fields", [FieldRules(exclude=[("id",)]), FieldRules([("a",), ("id", "b")])]
)
def test_the_primary_key_cannot_be_left_out(fields: FieldRules) -> None:
    with pytest.raises(SettingsInvalid, match="'id' is the table's primary key"):
        query(fields)
