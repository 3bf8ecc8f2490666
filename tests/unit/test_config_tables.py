"""Settings of whole databases, exchanges of tables and envelopes."""

from pathlib import Path

import pytest

from replicator.composition import table_settings
from replicator.config import Settings, load_settings
from replicator.domain.guard import DEFAULT_LIMIT, DeleteLimit
from replicator.domain.model import TableName, of_table
from replicator.errors import SettingsInvalid
from tests.support.settings import WriteToml

_FILE = """
[[tables]]
name = "shop.*"
exchange = "shop"
envelope = "debezium"

[[tables]]
name = "shop.orders"
initial = "baseline"

[[tables]]
name = "blog.posts"
envelope = "cloudevents"
exchange = "rethinkdb"
"""


def _load(tmp_path: Path, text: str = _FILE) -> Settings:
    path = tmp_path / "replicator.toml"
    path.write_text(text)
    return load_settings(path, environ={})


def test_a_whole_database_gives_its_options_to_each_of_its_tables(tmp_path: Path) -> None:
    table = _load(tmp_path).table(TableName("shop", "made later"))

    assert table is not None
    assert (table.exchange, table.envelope, table.initial) == ("shop", "debezium", "publish")


def test_an_entry_of_a_table_goes_over_its_whole_database_with_all_its_options(
    tmp_path: Path,
) -> None:
    table = _load(tmp_path).table(TableName("shop", "orders"))

    assert table is not None
    assert (table.exchange, table.envelope, table.initial) == (None, "change", "baseline")


def test_a_table_of_no_database_of_the_settings_has_no_options(tmp_path: Path) -> None:
    assert _load(tmp_path).table(TableName("blog", "comments")) is None


def test_the_exchanges_are_named_once_and_the_fence_s_is_the_first(tmp_path: Path) -> None:
    settings = _load(tmp_path)

    assert settings.exchanges == ["rethinkdb", "shop"]
    assert settings.databases == ["shop"]


def test_a_whole_database_can_come_from_the_environment() -> None:
    settings = load_settings(environ={"REPLICATOR_TABLES": "shop.*,blog.posts"})

    assert settings.databases == ["shop"]
    assert [table.full_name.is_pattern for table in settings.tables] == [True, False]


def test_paths_of_fields_are_read_and_become_the_projection_of_the_index(tmp_path: Path) -> None:
    text = """
    [[tables]]
    name = "shop.orders"
    exclude_fields = ["secret", "card.number", 'card\\.number', "secret"]
    """
    (table,) = _load(tmp_path, text).tables

    assert table.exclude_fields == (("secret",), ("card", "number"), ("card.number",), ("secret",))
    assert table_settings(table.full_name, table).projection == (
        '{"exclude":[["card","number"],"card.number","secret","secret"]}'
    )


def test_the_projection_of_plain_names_is_that_of_0_1_0(tmp_path: Path) -> None:
    text = '[[tables]]\nname = "a.b"\ninclude_fields = ["b", "a"]\n'
    (table,) = _load(tmp_path, text).tables

    assert table_settings(table.full_name, table).projection == '{"include":["a","b"]}'


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("'a..b'", "exclude_fields[0] = 'a..b' (F): 'a..b' has an empty name; a dot in a name is"),
        (r"'x', 'a\'", "exclude_fields[1] = 'a\\\\' (F): 'a\\\\': after \\ comes one of"),
        ("'card.*'", "exclude_fields[0] = 'card.*' (F): 'card.*': there are no wildcards"),
        ("'card[0].number'", "exclude_fields[0] = 'card[0].number' (F): 'card[0].number': there"),
        ("'a.b.c', 'a.b'", "exclude_fields (F): a.b.c is part of a.b"),
        ("5", "exclude_fields[0] = 5 (F): must be text"),
    ],
)
def test_a_path_that_cannot_be_followed_is_refused(
    tmp_path: Path, fields: str, complaint: str
) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        _load(tmp_path, f"[[tables]]\nname = 'a.b'\nexclude_fields = [{fields}]")

    line = str(refused.value).replace(f"file {tmp_path / 'replicator.toml'}", "F")
    assert line.startswith(f"tables[a.b].{complaint}")


def test_a_table_that_names_no_exchange_has_the_main_one_also_beside_its_database(
    toml: WriteToml,
) -> None:
    path = toml('[[tables]]\nname = "shop.*"\nexchange = "X"\n[[tables]]\nname = "shop.orders"\n')
    exchanges = load_settings(path, environ={}).exchange_by_table

    assert of_table(exchanges, TableName("shop", "orders")) == "rethinkdb"
    assert of_table(exchanges, TableName("shop", "other")) == "X"


def test_entries_that_share_a_routing_key_are_those_of_one_exchange(toml: WriteToml) -> None:
    text = """
    tables = [
        {name = "shop.orders"}, {name = "eu.*"}, {name = "us.*", exchange = "us"},
        {name = "uk.*", routing_key = "{db}.{table}.{op}"},
    ]
    """
    shared = load_settings(toml(text), environ={}).shared_keys

    assert shared == [("orders.update", [TableName("shop", "orders"), TableName("eu", "*")])]


def test_the_guard_is_a_share_by_default_and_wrong_ones_are_refused_by_their_name(
    tmp_path: Path,
) -> None:
    text = _FILE + "delete_guard = 5000"
    default, given = (_load(tmp_path, each).tables[2].delete_guard for each in (_FILE, text))
    assert (default, given) == (DEFAULT_LIMIT, DeleteLimit(5000))

    with pytest.raises(SettingsInvalid) as refused:
        _load(tmp_path, _FILE + 'delete_guard = "120%"')
    assert str(refused.value) == (
        f"tables[blog.posts].delete_guard = '120%' (file {tmp_path / 'replicator.toml'}): must be "
        "a share below 100% such as 20%, a number of documents such as 5000, or off"
    )
