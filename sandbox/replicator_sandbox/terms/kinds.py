"""The kinds of values that a term may have besides data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator_sandbox.changefeed import Feed, FeedOptions, Transform
from replicator_sandbox.datum import Datum, decode
from replicator_sandbox.reql_errors import logic
from replicator_sandbox.spans import KeyRange, Span
from replicator_sandbox.table_access import AnyTable

Value = Any
"""A datum, or one of the classes below."""

Scope = Mapping[int, Datum]
IMPLICIT = -1


@dataclass(frozen=True, slots=True)
class DatabaseValue:
    """``r.db(...)``."""

    name: str


@dataclass(frozen=True, slots=True)
class RowValue:
    """One document of a table, or the place where it would be."""

    table: AnyTable
    key_value: Datum
    key: bytes

    def read(self) -> Datum:
        """Return the document, or None."""
        document = self.table.read(self.key)
        return None if document is None else decode(document)


@dataclass(slots=True)
class Sequence:
    """A stream: documents as stored bytes, or data.

    ``table`` is set while the elements are documents that can be written. ``source``, ``span``
    and ``transforms`` say how the elements follow from a table's documents, as long as ``changes``
    can do the same; if it cannot, ``source`` is None and ``refusal`` says why.
    """

    elements: Iterable[Any]
    kind: str = "SEQUENCE"
    table: AnyTable | None = None
    source: AnyTable | None = None
    span: Span | None = None
    transforms: tuple[Transform, ...] = ()
    refusal: str = "Cannot call `changes` on an eager stream."

    def data(self) -> Iterable[Datum]:
        """Return the elements as data."""
        return (decode(item) if type(item) is bytes else item for item in self.elements)


def scan(table: AnyTable, span: Span | None = None) -> Sequence:
    """Return the documents of ``table``, or of the part of it that ``span`` names."""
    chosen = span or KeyRange()
    return Sequence(table.documents(chosen), "TABLE_SLICE", table=table, source=table, span=chosen)


@dataclass(slots=True)
class FeedValue:
    """What ``changes`` returns; ``open`` opens the feed once the query has succeeded."""

    open: Callable[[], Feed]
    options: FeedOptions
    is_point: bool = False
    transforms: tuple[Callable[[Datum], Iterable[Datum]], ...] = ()
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """``r.func``: its parameters and body, the variables around it, and how to evaluate it."""

    evaluate: Callable[[Any, Scope], Value]
    parameters: tuple[int, ...]
    body: Any
    scope: Scope

    def call(self, *arguments: Datum) -> Value:
        """Evaluate the body with ``arguments``."""
        if len(arguments) != len(self.parameters):
            raise logic(
                f"Expected function with {counted(len(arguments), 'argument')} but found "
                f"function with {counted(len(self.parameters), 'argument')}."
            )
        scope = dict(self.scope)
        scope.update(zip(self.parameters, arguments, strict=True))
        if len(arguments) == 1:
            scope[IMPLICIT] = arguments[0]
        return self.evaluate(self.body, scope)


def is_table(value: Value) -> bool:
    """Return whether ``value`` is a table."""
    return getattr(value, "is_table", False) is True


def describe(value: Value) -> str:
    """Return the name that errors give to a value that is not data."""
    if isinstance(value, DatabaseValue):
        return f'DATABASE:\ndb("{value.name}")'
    if is_table(value):
        return f"TABLE:\ntable({value.name})"
    if isinstance(value, Sequence) and value.table is not None:
        return f"{value.kind}:\n{value.kind} ON table({value.table.name})"
    if isinstance(value, Function):
        return "FUNCTION:\nVALUE FUNCTION"
    return "SEQUENCE:\nVALUE SEQUENCE"


def counted(number: int, noun: str) -> str:
    """Return ``number`` and ``noun``, in the plural unless the number is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
