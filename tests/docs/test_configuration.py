"""The page about configuration says what the program does."""

import re
import tomllib
from pathlib import Path

import pytest

from replicator.config import load_settings
from tests.docs.pages import fences, read, rows
from tests.support.settings import describe_settings

PAGE = "docs/configuration.md"


def test_the_table_has_every_setting_as_the_program_has_it() -> None:
    expected = [
        {
            "key": f"`{setting.key}`",
            "environment variable": f"`{setting.environment}`" if setting.environment else "",
            "default": {None: "required", "none": "none"}.get(
                setting.default, f"`{setting.default}`"
            ),
            "meaning": setting.meaning,
        }
        for setting in describe_settings()
    ]

    assert [row for row in rows(PAGE) if "environment variable" in row] == expected


def test_the_example_file_is_accepted(tmp_path: Path) -> None:
    (example,) = fences(PAGE, "toml")
    for name in re.findall(r'^(?:\w+_file) = "(.*)"$', example, re.MULTILINE):
        local = tmp_path / Path(name).name
        local.write_text("secret\n")
        example = example.replace(name, str(local))
    path = tmp_path / "replicator.toml"
    path.write_text(example)

    settings = load_settings(path, environ={})

    assert [table.name for table in settings.tables] == [
        entry["name"] for entry in tomllib.loads(example)["tables"]
    ]


def test_the_kubernetes_variables_are_accepted(tmp_path: Path) -> None:
    (example,) = fences(PAGE, "yaml")
    environ = dict(re.findall(r"- name: (\S+)\n\s+value: (\S+)", example))
    for name, value in environ.items():
        if name.endswith("_FILE"):
            local = tmp_path / Path(value).name
            local.write_text("secret\n")
            environ[name] = str(local)

    settings = load_settings(environ=environ)

    assert len(environ) == example.count("name:")
    assert settings.rethinkdb.password == settings.rabbitmq.password == "secret"


@pytest.mark.parametrize("url", ["rethinkdb://user", "amqp://user", "amqps://user"])
def test_the_example_addresses_are_accepted(url: str) -> None:
    (line,) = [line.strip() for line in read(PAGE).splitlines() if line.startswith(f"    {url}")]
    section = "rethinkdb" if line.startswith("rethinkdb") else "rabbitmq"

    load_settings(environ={}, flags={f"{section}.url": line}, require_tables=False)
