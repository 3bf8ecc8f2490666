"""Every setting with its default and meaning, from the models, as the documentation shows it."""

from typing import NamedTuple

from pydantic.fields import FieldInfo

from replicator.config import Settings
from replicator.config.load import environment_variable
from replicator.config.section import fields_of


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
        case None | ():
            return "none"
        case bool(value):
            return str(value).lower()
        case tuple(items):
            return ", ".join(items)
        case value:
            return str(value)
