"""Every setting with its default and meaning, from the models so that the docs cannot drift."""

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from replicator.config.model import Settings

ENVIRONMENT_PREFIX = "REPLICATOR_"


class Setting(NamedTuple):
    """One setting, as the documentation shows it; ``default`` is None if a value is required."""

    key: str
    default: str | None
    meaning: str

    @property
    def environment(self) -> str | None:
        """The environment variable; None for a key inside a list."""
        return None if "[]" in self.key else environment_variable(self.key)


def environment_variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return ENVIRONMENT_PREFIX + key.replace(".", "__").upper()


def describe_settings() -> list[Setting]:
    """Return every setting in the models' order; keys inside a list are ``tables[].name``."""
    return list(_describe(Settings, ""))


def _describe(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        key = prefix + name
        if section := _model_in(field.annotation):
            yield from _describe(section, f"{key}.")
            continue
        yield Setting(key, _default(field), " ".join((field.description or "").split()))
        for item in filter(None, map(_model_in, get_args(field.annotation))):
            yield from _describe(item, f"{key}[].")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


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
