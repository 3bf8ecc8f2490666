"""Terms on objects: fields, pluck, without, merge. On a stream they apply to each element."""

from collections.abc import Callable
from typing import Any

from replicator_sandbox.datum import Datum, decode, encode, merged, pretty_start, type_name
from replicator_sandbox.datum import pretty as pretty_datum
from replicator_sandbox.reql_errors import ReqlError, logic, missing
from replicator_sandbox.terms.core import Call, term, to_sequence
from replicator_sandbox.terms.kinds import FeedValue, Function, Sequence, Value, is_table

Pattern = list[Datum]


def each(call: Call, name: str, convert: Callable[[Datum], Datum]) -> Value:
    """Apply ``convert`` to an object, or to each object of a stream or a feed."""

    def checked(item: Datum) -> Datum:
        if not isinstance(item, dict):
            raise _not_an_object(name, item, logic)
        return convert(item)

    value = call.value(0)
    if isinstance(value, FeedValue):
        value.transforms += (lambda element: [checked(element)],)
        return value
    if isinstance(value, Sequence) or is_table(value) or isinstance(value, list):
        return mapped(to_sequence(call.query, value), checked)
    datum = call.query.to_datum(value)
    if not isinstance(datum, dict):
        raise call.at(0, _not_an_object(name, datum, logic))
    return convert(datum)


def _not_an_object(name: str, item: Datum, make: Callable[[str], ReqlError]) -> ReqlError:
    shown = pretty_start(item)
    return make(f"Cannot perform {name} on a non-object non-sequence `{shown}`.")


def mapped(sequence: Sequence, convert: Callable[[Datum], Datum]) -> Sequence:
    """Return ``sequence`` with each element converted, still able to feed ``changes``."""

    def transform(document: bytes) -> bytes | None:
        try:
            return encode(convert(decode(document)))
        except ReqlError:
            return None  # a document for which this fails is not in the feed

    return Sequence(
        (convert(item) for item in sequence.data()),
        "ARRAY" if sequence.kind == "ARRAY" else "SEQUENCE",
        source=sequence.source,
        span=sequence.span,
        transforms=(*sequence.transforms, transform),
        refusal=sequence.refusal,
    )


def field_of(value: Datum, name: str) -> Datum:
    """Return a field of an object.

    Raises:
        ReqlError: non-existence, which ``default`` and ``filter`` understand.
    """
    if name in value:
        return value[name]
    raise missing(f"No attribute `{name}` in object:\n{pretty_datum(value)}")


@term(170, "bracket", 2)
def bracket(call: Call) -> Value:
    """Return a field by name, or an element by position."""
    place = call.datum(1)
    value = call.value(0)
    if isinstance(place, str):
        return _field(call, value, place, "bracket")
    if type_name(place) == "NUMBER":
        return element_at(call, value, int(place))
    raise logic(
        f"Expected NUMBER or STRING as second argument to `bracket` but found {type_name(place)}."
    )


@term(31, "get_field", 2)
def get_field(call: Call) -> Value:
    """Return a field by name."""
    return _field(call, call.value(0), call.string(1), "get_field")


def _field(call: Call, value: Value, name: str, term_name: str) -> Value:
    if isinstance(value, FeedValue):
        value.transforms += (lambda element: [element[name]] if name in element else [],)
        return value
    if isinstance(value, Sequence) or is_table(value) or isinstance(value, list):
        sequence = to_sequence(call.query, value)
        found = (item[name] for item in sequence.data() if name in item)
        kind = "ARRAY" if sequence.kind == "ARRAY" else "SEQUENCE"
        return Sequence(found, kind, refusal="Cannot call `changes` after `concat_map`.")
    datum = call.query.to_datum(value)
    if not isinstance(datum, dict):
        make = missing if datum is None else logic
        raise call.at(0, _not_an_object(term_name, datum, make))
    return field_of(datum, name)


def element_at(call: Call, value: Value, index: int) -> Value:
    """Return the element at a position; a negative one counts from the end."""
    if isinstance(value, FeedValue):
        raise logic("Cannot use an index on an infinite stream.")
    sequence = to_sequence(call.query, value)
    items = list(sequence.data())
    if not -len(items) <= index < len(items):
        raise missing(f"Index out of bounds: {index}")
    return items[index]


@term(45, "nth", 2)
def nth(call: Call) -> Value:
    """Return the element at a position."""
    return element_at(call, call.value(0), int(call.datum(1)))


@term(94, "keys", 1)
def keys(call: Call) -> Value:
    """Return the names of an object's fields."""
    value = call.datum(0)
    if not isinstance(value, dict):
        raise logic(f"Cannot call `keys` on objects of type `{type_name(value)}`.")
    return sorted(value)


def _patterns(call: Call) -> Pattern:
    """Return the paths that the arguments name: strings, objects, arrays of both."""
    return [call.datum(index) for index in range(1, len(call))]


def plucked(value: Datum, patterns: Pattern) -> Datum:
    """Return those parts of an object that the paths name."""
    result: dict[str, Datum] = {}
    for pattern in patterns:
        if isinstance(pattern, str):
            if pattern in value:
                result[pattern] = value[pattern]
        elif isinstance(pattern, list):
            result |= plucked(value, pattern)
        elif isinstance(pattern, dict):
            for name, inner in pattern.items():
                if name in value:
                    _pluck_inner(result, name, value[name], inner)
        else:
            raise _bad_pattern(pattern)
    return result


def _pluck_inner(result: dict[str, Datum], name: str, value: Datum, inner: Datum) -> None:
    if inner is True:
        result[name] = value
    elif _is_array_of_objects(value):
        result[name] = [plucked(item, _as_list(inner)) for item in value]
    elif isinstance(value, dict) and type_name(value) != "PTYPE<BINARY>":
        # The last pattern that begins with this name replaces what others found.
        result[name] = plucked(value, _as_list(inner))


def omitted(value: Datum, patterns: Pattern) -> Datum:
    """Return an object without the parts that the paths name."""
    result = dict(value)
    for pattern in patterns:
        if isinstance(pattern, str):
            result.pop(pattern, None)
        elif isinstance(pattern, list):
            result = omitted(result, pattern)
        elif isinstance(pattern, dict):
            for name, inner in pattern.items():
                if inner is True:
                    result.pop(name, None)
                elif name in result:
                    result[name] = _omit_inner(result[name], _as_list(inner))
        else:
            raise _bad_pattern(pattern)
    return result


def _omit_inner(value: Datum, inner: Pattern) -> Datum:
    if _is_array_of_objects(value):
        return [omitted(item, inner) for item in value]
    return omitted(value, inner) if _is_object(value) else value


def _is_object(value: Datum) -> bool:
    return type_name(value) == "OBJECT"


def _is_array_of_objects(value: Datum) -> bool:
    """Return whether paths go into an array: one item of another type, and they do not."""
    return isinstance(value, list) and all(map(_is_object, value))


def _as_list(pattern: Datum) -> Pattern:
    return pattern if isinstance(pattern, list) else [pattern]


def _bad_pattern(pattern: Any) -> ReqlError:
    return logic(f"Invalid path argument `{pretty_start(pattern)}`.")


@term(33, "pluck", 1, -1)
def pluck(call: Call) -> Value:
    """Keep the named fields."""
    patterns = _patterns(call)
    return each(call, "pluck", lambda value: plucked(value, patterns))


@term(34, "without", 1, -1)
def without(call: Call) -> Value:
    """Drop the named fields."""
    patterns = _patterns(call)
    return each(call, "without", lambda value: omitted(value, patterns))


@term(32, "has_fields", 1, -1)
def has_fields(call: Call) -> Value:
    """Return whether an object has all the named fields."""
    names = [call.string(index) for index in range(1, len(call))]
    value = call.datum(0)
    return all(value.get(name) is not None for name in names)


@term(35, "merge", 1, -1)
def merge(call: Call) -> Value:
    """Put objects, or the result of a function on the first, on top of the first."""
    additions = [call.function(index) or call.datum(index) for index in range(1, len(call))]

    def convert(value: Datum) -> Datum:
        for addition in additions:
            if isinstance(addition, Function):
                value = merged(value, call.query.to_datum(addition.call(value)))
            else:
                value = merged(value, addition)
        return value

    return each(call, "merge", convert)
