"""Routing keys from templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.model import TableName
from replicator.domain.routing import MAX_BYTES, RoutingKey, is_matched, shared_keys

NAMES = st.text("abcXYZ019_-", min_size=1, max_size=40)
OPS = st.sampled_from(["create", "update", "delete"])


def test_the_default_template_gives_the_tutorials_keys() -> None:
    key = RoutingKey("{table}.{op}")

    assert key.format("change_example", "mytable", "create") == "mytable.create"


@given(db=NAMES, table=NAMES, op=OPS)
def test_a_template_is_filled_in_as_python_formats_it(db: str, table: str, op: str) -> None:
    template = "a.{{x}}.{db}.{table}-{table}.{op}.z"

    filled = RoutingKey(template).format(db, table, op)

    assert filled == template.format(db=db, table=table, op=op)


@given(db=NAMES, table=NAMES, op=OPS)
def test_no_key_of_a_table_is_longer_than_the_longest(db: str, table: str, op: str) -> None:
    key = RoutingKey("{op}.é.{db}{table}")

    assert len(key.format(db, table, op).encode()) <= key.longest(db, table)
    assert key.longest(db, table) == len(key.format(db, table, "delete").encode())


def test_the_longest_key_is_counted_in_bytes() -> None:
    assert RoutingKey("é" * 128).longest("db", "t") == MAX_BYTES + 1


@pytest.mark.parametrize("template", ["", "all", "{{}}", "{db}{table}{op}"])
def test_templates_without_or_with_any_field_are_accepted(template: str) -> None:
    assert str(RoutingKey(template)) == template


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{tabel}.{op}", "{tabel} is unknown"),
        ("{}", "{} is unknown"),
        ("{0}", "{0} is unknown"),
        ("{table.name}", "{table.name} is unknown"),
        ("{table!r}", "{table} takes no format"),
        ("{table:>10}", "{table} takes no format"),
        ("{table", "expected '}'"),
        ("table}", "Single '}'"),
    ],
)
def test_a_broken_template_is_refused_with_its_fault(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        RoutingKey(template)

    assert complaint in str(refused.value)


def test_equal_templates_make_equal_keys() -> None:
    assert RoutingKey("{db}") == RoutingKey("{db}")
    assert hash(RoutingKey("{db}")) == hash(RoutingKey("{db}"))


@pytest.mark.parametrize(
    ("binding", "key", "expected"),
    [
        ("#", "orders.update", True),
        ("#", "", True),
        ("orders.*", "orders.update", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.update.now", False),
        ("orders.#", "orders", True),
        ("#.update", "shop.orders.update", True),
        ("#.update", "update", True),
        ("#.update", "update.orders", False),
        ("*.#.*", "orders", False),
        ("#.#", "a.b.c", True),
        ("#.b.#.d", "a.b.c.b.d", True),
        ("#.b.#.d", "a.b.c.b", False),
        ("orders.update", "orders.update", True),
        ("orders.updat", "orders.update", False),
        ("*", "a", True),
        ("", "a", False),
    ],
)
def test_a_binding_takes_what_a_topic_exchange_would_deliver(
    binding: str,
    key: str,
    expected: bool,  # noqa: FBT001 -- pytest names arguments
) -> None:
    assert is_matched(binding, key) is expected


@pytest.mark.parametrize(
    ("entries", "shared"),
    [
        ("shop.orders eu.customers", {}),
        ("shop.orders eu.orders", {"orders.update": "shop.orders eu.orders"}),
        # A table of this name may be created in eu at any time.
        ("eu.* shop.orders", {"orders.update": "shop.orders eu.*"}),
        ("eu.* shop.*", {"*.update": "eu.* shop.*"}),
        ("eu.* shop.* shop.a", {"*.update": "eu.* shop.*", "a.update": "shop.a eu.*"}),
        # Their own entry is what these have.
        ("shop.* shop.orders", {}),
        ("shop.*", {}),
    ],
)
def test_entries_that_make_the_same_routing_key_are_found(
    entries: str, shared: dict[str, str]
) -> None:
    tables = {
        TableName(*name.split(".")): ("x", RoutingKey("{table}.{op}")) for name in entries.split()
    }

    assert {key: " ".join(map(str, names)) for key, names in shared_keys(tables)} == shared


def test_another_exchange_or_another_template_tells_tables_apart() -> None:
    orders, others = TableName("shop", "orders"), TableName("eu", "*")
    key, with_database = RoutingKey("{table}.{op}"), RoutingKey("{db}.{table}.{op}")

    assert shared_keys({orders: ("x", key), others: ("y", key)}) == []
    assert shared_keys({orders: ("x", key), others: ("x", with_database)}) == []
    assert shared_keys({orders: ("x", RoutingKey("all")), others: ("x", RoutingKey("all"))}) == [
        ("all", [orders, others])
    ]
