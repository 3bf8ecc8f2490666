"""Settings of whole databases, exchanges of tables and envelopes."""

from pathlib import Path

from replicator.config import Settings, load_settings
from replicator.domain.model import TableName

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
