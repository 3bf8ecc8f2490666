"""Terms on streams: filter, order, limit, count, map."""

from collections.abc import Callable, Iterable, Iterator
from functools import cmp_to_key
from itertools import islice
from typing import Any

from replicator_sandbox.datum import Datum, compare, decode, equal, type_name
from replicator_sandbox.keys import LOWEST
from replicator_sandbox.protocol import ErrorType
from replicator_sandbox.reql_errors import ReqlError, logic
from replicator_sandbox.terms.core import Call, Query, term, to_sequence
from replicator_sandbox.terms.determinism import is_deterministic
from replicator_sandbox.terms.kinds import FeedValue, Function, Sequence, Value, is_table
from replicator_sandbox.terms.logic import is_true
from replicator_sandbox.terms.objects import mapped

_NOT_DETERMINISTIC = "Cannot call `changes` after a non-deterministic function."


@term(39, "filter", 2, options="default")
def filter_(call: Call) -> Value:
    """Keep the elements that match an object or satisfy a function."""
    value = call.value(0)
    matches = _predicate(call)
    if isinstance(value, FeedValue):
        value.transforms += (lambda element: [element] if matches(element) else [],)
        return value
    sequence = to_sequence(call.query, value)

    def transform(document: bytes) -> bytes | None:
        try:
            return document if matches(decode(document)) else None
        except ReqlError:
            return None  # a document for which this fails is not in the feed

    deterministic = is_deterministic(call.arguments[1])
    return Sequence(
        (item for item in sequence.elements if matches(_datum(item))),
        "ARRAY" if sequence.kind == "ARRAY" else "SELECTION",
        table=sequence.table,
        source=sequence.source if deterministic else None,
        span=sequence.span,
        transforms=(*sequence.transforms, transform),
        refusal=sequence.refusal if deterministic else _NOT_DETERMINISTIC,
    )


def _predicate(call: Call) -> Callable[[Datum], bool]:
    """Return the test that argument 1 of a filter means."""
    function = call.function(1)
    pattern = None if function is not None else call.datum(1)

    def matches(value: Datum) -> bool:
        if function is None:
            return _fits(pattern, value) if isinstance(pattern, dict) else is_true(pattern)
        try:
            return is_true(call.query.to_datum(call.apply(1, function, value)))
        except ReqlError as err:
            if err.error_type != ErrorType.NON_EXISTENCE:
                raise
            try:
                return is_true(call.option("default")) if call.has_option("default") else False
            except ReqlError as empty:
                raise err from empty

    return matches


def _fits(pattern: Datum, value: Datum) -> bool:
    if isinstance(pattern, dict) and "$reql_type$" not in pattern:
        return isinstance(value, dict) and all(
            name in value and _fits(inner, value[name]) for name, inner in pattern.items()
        )
    return equal(pattern, value)


def _datum(item: Any) -> Datum:
    return decode(item) if type(item) is bytes else item


@term(43, "count", 1, 2)
def count(call: Call) -> Value:
    """Count elements: all, those equal to a value, those that satisfy a function."""
    value = call.value(0)
    if len(call) == 1 and is_table(value):
        return value.count()
    if isinstance(value, FeedValue):
        call.sequence(0)
    sequence = to_sequence(call.query, value)
    if len(call) == 1:
        return sum(1 for _ in sequence.elements)
    function = call.function(1)
    if function is not None:
        return sum(is_true(call.apply(1, function, item)) for item in sequence.data())
    wanted = call.datum(1)
    return sum(equal(item, wanted) for item in sequence.data())


@term(86, "is_empty", 1)
def is_empty(call: Call) -> Value:
    """Return whether the stream is empty."""
    return not any(True for _ in call.sequence(0).elements)


@term(71, "limit", 2)
def limit(call: Call) -> Value:
    """Keep the first elements."""
    number = call.datum(1)
    if type_name(number) != "NUMBER":
        raise call.at(1, logic(f"Expected type NUMBER but found {type_name(number)}."))
    if number < 0:
        raise logic(f"LIMIT takes a non-negative argument (got {number})")
    value = call.value(0)
    if isinstance(value, FeedValue):
        value.limit = int(number) if value.limit is None else min(value.limit, int(number))
        return value
    return _cut(call, value, 0, int(number))


@term(70, "skip", 2)
def skip(call: Call) -> Value:
    """Leave the first elements out."""
    return _cut(call, call.value(0), int(call.datum(1)), None)


def _cut(call: Call, value: Value, start: int, stop: int | None) -> Sequence:
    sequence = to_sequence(call.query, value)
    return Sequence(
        islice(iter(sequence.elements), start, stop),
        sequence.kind,
        table=sequence.table,
        refusal="Cannot get changes on the first elements of an unordered stream."
        if sequence.source is not None
        else sequence.refusal,
    )


@term(38, "map", 2, -1)
def map_(call: Call) -> Value:
    """Convert each element with a function."""
    function = call.function(len(call) - 1)
    if function is None:
        raise logic("Expected type FUNCTION as the last argument of `map`.")
    if len(call) > 2:
        raise logic("The sandbox maps over one sequence only.")
    converter = function
    value = call.value(0)
    if isinstance(value, FeedValue):
        value.transforms += (lambda element: [call.query.to_datum(converter.call(element))],)
        return value
    result = mapped(
        to_sequence(call.query, value),
        lambda item: call.query.to_datum(call.apply(1, converter, item)),
    )
    if not is_deterministic(call.arguments[1]):
        result.source, result.refusal = None, _NOT_DETERMINISTIC
    return result


@term(41, "order_by", 1, -1, options="index")
def order_by(call: Call) -> Value:
    """Sort by fields, or by the primary key's index."""
    value = call.value(0)
    sequence = to_sequence(call.query, value)
    if call.has_option("index"):
        return _by_key(call, sequence)
    orders = [_order(call, index) for index in range(1, len(call))]

    def compare_all(a: Any, b: Any) -> int:
        for order in orders:
            if result := order(_datum(a), _datum(b)):
                return result
        return 0

    elements = sorted(sequence.elements, key=cmp_to_key(compare_all))
    if len(elements) > call.query.array_limit:
        raise call.query.too_many()
    return Sequence(elements, "ARRAY", table=sequence.table)


def _by_key(call: Call, sequence: Sequence) -> Sequence:
    table = sequence.table
    if table is None:
        raise logic("Indexed order_by can only be performed on a TABLE or TABLE_SLICE.")
    index = call.option("index")
    is_descending = isinstance(index, Descending)
    name = index.field if isinstance(index, Descending) else index
    if name != table.primary_key:
        raise no_index(table, name)
    key = cmp_to_key(compare)
    elements = sorted(
        sequence.elements,
        key=lambda item: key(_datum(item)[table.primary_key]),
        reverse=is_descending,
    )
    return Sequence(
        elements,
        "TABLE_SLICE",
        table=table,
        source=sequence.source,
        span=sequence.span,
        transforms=sequence.transforms,
    )


def no_index(table: Any, name: str) -> ReqlError:
    """Return the error for an index that does not exist: the sandbox has only the primary key."""
    return ReqlError(
        f"Index `{name}` was not found on table `{table.database_name}.{table.name}`.",
        ErrorType.OP_FAILED,
    )


class Descending:
    """``r.desc``."""

    def __init__(self, field: Any) -> None:
        """Hold the field's name, or the function."""
        self.field = field


@term(73, "asc", 1)
def asc(call: Call) -> Value:
    """Order upwards, which is the default."""
    return call.function(0) or call.datum(0)


@term(74, "desc", 1)
def desc(call: Call) -> Value:
    """Order downwards."""
    return Descending(call.function(0) or call.datum(0))


def _order(call: Call, index: int) -> Callable[[Datum, Datum], int]:
    value = call.value(index)
    sign = -1 if isinstance(value, Descending) else 1
    by = value.field if isinstance(value, Descending) else value

    def order(a: Datum, b: Datum) -> int:
        left, right = _sort_value(call.query, a, by), _sort_value(call.query, b, by)
        if left is LOWEST or right is LOWEST:
            return sign * ((left is not LOWEST) - (right is not LOWEST))
        return sign * compare(left, right)

    return order


def _sort_value(query: Query, item: Datum, by: Any) -> Any:
    if isinstance(by, Function):
        return query.to_datum(by.call(item))
    return item[by] if isinstance(item, dict) and by in item else LOWEST


@term(40, "concat_map", 2)
def concat_map(call: Call) -> Value:
    """Map each element to a sequence and join those."""
    function = call.function(1)
    if function is None:
        raise logic("Expected type FUNCTION as second argument of `concat_map`.")
    converter = function
    sequence = call.sequence(0)

    def joined() -> Iterator[Datum]:
        for item in sequence.data():
            result = to_sequence(call.query, call.apply(1, converter, item))
            yield from result.data()

    return Sequence(
        joined(),
        "ARRAY" if sequence.kind == "ARRAY" else "SEQUENCE",
        refusal="Cannot call `changes` after `concat_map`.",
    )


@term(42, "distinct", 1)
def distinct(call: Call) -> Value:
    """Return each value once, sorted."""
    values: list[Datum] = []
    for item in sorted(call.sequence(0).data(), key=cmp_to_key(compare)):
        if not values or not equal(values[-1], item):
            values.append(item)
    return values


@term(93, "contains", 1, -1)
def contains(call: Call) -> Value:
    """Return whether all the given values are among the elements."""
    items: Iterable[Datum] = list(call.sequence(0).data())
    return all(
        any(equal(item, wanted) for item in items)
        for wanted in (call.datum(index) for index in range(1, len(call)))
    )
