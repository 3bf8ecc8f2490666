"""What the settings' models share: their strictness, and types used in several sections."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
)
from pydantic.fields import FieldInfo

from replicator.config.files import open_regular
from replicator.config.values import refuse_control_characters, short_name


class ContradictionError(ValueError):
    """Two settings contradict each other; ``key`` is the one to report, within its section."""

    def __init__(self, key: str, message: str) -> None:
        """Keep the key, which pydantic's errors about a whole model do not have."""
        super().__init__(message)
        self.key = key


def require_different(names: Iterable[str], key: str) -> None:
    """Raise ContradictionError if a list of settings names something twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ContradictionError(key, f"names {name} twice")
        seen.add(name)


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic wants ValueError
    return value


def _readable(path: Path) -> Path:
    open_regular(path).close()
    return path


Count = Annotated[int, BeforeValidator(_not_boolean), Field(ge=1)]
ShortName = Annotated[str, AfterValidator(short_name)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]


class Section(BaseModel):
    """A table of settings: refuses unknown keys, and never changes once checked."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        # A value may be a secret: the loader decides what is shown of it.
        hide_input_in_errors=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _has_no_control_characters(cls, value: object) -> object:
        """Look at every text of every section, whatever it is for."""
        if isinstance(value, str):
            refuse_control_characters(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str):
                    refuse_control_characters(item, repr(item))
        return value


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield each setting of a model by its dotted key; inside a list as ``tables[].name``."""
    for name, field in model.model_fields.items():
        key = prefix + name
        types = [field.annotation, *get_args(field.annotation)]
        models = [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]
        is_section = field.annotation in models
        if not is_section:
            yield key, field
        for each in models:
            yield from fields_of(each, f"{key}." if is_section else f"{key}[].")
