"""Settings for tests: loaded, refused, and described from the models as the documentation does."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic.fields import FieldInfo

from replicator.config import Settings, load_settings
from replicator.config.load import environment_variable
from replicator.config.section import fields_of
from replicator.errors import SettingsInvalid

TABLE = {"REPLICATOR_TABLES": "a.b"}

WriteToml = Callable[[str], Path]
"""Writes a settings file; the fixture `toml`."""


def load(environ: Mapping[str, str] | None = None, **keywords: Any) -> Settings:
    """Load settings that name a table."""
    return load_settings(environ=TABLE | dict(environ or {}), **keywords)


def problems(
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """Return what is wrong with settings that are refused."""
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(config_file, flags, TABLE | dict(environ or {}))
    return str(refused.value).splitlines()


def problem_of_toml(path: Path) -> str:
    """Return the one thing that is wrong with a file."""
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(path, environ={})
    (line,) = str(refused.value).splitlines()
    return line.replace(str(path), "replicator.toml")


class Setting(NamedTuple):
    """One setting; ``default`` is None if a value is required."""

    key: str
    default: str | None
    meaning: str

    @property
    def environment(self) -> str | None:
        """The environment variable; None for a key inside a list."""
        return None if "[]" in self.key else environment_variable(self.key)


def describe_settings() -> list[Setting]:
    """Return every setting in the models' order; keys inside a list are ``tables[].name``."""
    return [
        Setting(key, _default(field), " ".join((field.description or "").split()))
        for key, field in fields_of(Settings)
    ]


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    match field.default:
        case None | () | {}:
            return "none"
        case bool(value):
            return str(value).lower()
        case tuple(items):
            return ", ".join(items)
        case value:
            return str(value)
