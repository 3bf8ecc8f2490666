"""Every setting with its default and meaning, from the models so that the docs cannot drift."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from replicator.config.model import Settings
from replicator.config.urls import RabbitMQUrl, RethinkDBUrl
from replicator.config.values import format_duration, format_size

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
        inner = _model_in(field.annotation)
        if isinstance(field.annotation, type) and inner is not None:
            yield from _describe(inner, f"{key}.")
            continue
        yield Setting(key, _default(field, key), field.description or "")
        if inner is not None:
            yield from _describe(inner, f"{key}[].")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a section, or of the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _default(field: FieldInfo, key: str) -> str | None:
    value = field.default
    if field.is_required():
        return None
    if isinstance(value, RethinkDBUrl | RabbitMQUrl):
        return value.reveal()  # a default is public
    if isinstance(value, timedelta):
        return format_duration(value)
    if key.endswith("_bytes"):
        return format_size(value)
    if value is None or value == ():
        return "none"
    return str(value).lower() if isinstance(value, bool) else ", ".join(_items(value))


def _items(value: Any) -> list[str]:
    return [str(item) for item in value] if type(value) is tuple else [str(value)]
