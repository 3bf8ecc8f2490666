"""The evaluation of a query: terms, their arguments, functions and variables.

A term is JSON: ``[number, arguments, options]``; everything else is data. Each term is one
Python function registered with `term`, which receives a `Call` and asks it for its arguments,
so that an error knows the path to the argument at fault. Terms that the sandbox lacks are
refused before anything runs. Numbers of terms: RethinkDB's ql2.proto.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from replicator_sandbox import floats, pseudo_types
from replicator_sandbox.datum import PSEUDO_TYPE, Datum, type_name
from replicator_sandbox.engine import Engine
from replicator_sandbox.reql_errors import ReqlError, compile_error, logic, resource_limit
from replicator_sandbox.terms.kinds import (
    DatabaseValue,
    FeedValue,
    Function,
    RowValue,
    Scope,
    Sequence,
    Value,
    counted,
    describe,
    is_table,
    scan,
)

ARRAY_LIMIT = 100_000
_ARGS = 154
_MAKE_ARRAY = 2
_FUNC = 69
_PLAIN = frozenset({str, bool, type(None), floats.Double})


@dataclass(frozen=True, slots=True)
class Term:
    """A registered term: how many arguments and which options it takes."""

    name: str
    run: Callable[["Call"], Value]
    min_arguments: int
    max_arguments: int | None
    options: frozenset[str]


TERMS: dict[int, Term] = {}


def term(
    number: int, name: str, minimum: int = 0, maximum: int | None = None, options: str = ""
) -> Callable[[Callable[["Call"], Value]], Callable[["Call"], Value]]:
    """Register a function as the term ``number``.

    It takes ``minimum`` to ``maximum`` arguments: without a maximum, exactly the minimum; -1 means
    any number from the minimum on.
    """
    limit = None if maximum == -1 else minimum if maximum is None else maximum

    def register(run: Callable[["Call"], Value]) -> Callable[["Call"], Value]:
        TERMS[number] = Term(name, run, minimum, limit, frozenset(options.split()))
        return run

    return register


def check_terms(root: Any) -> None:
    """Refuse a query with an unknown term, a wrong number of arguments or an unknown option.

    Raises:
        ReqlError: as a compile error, before anything was evaluated.
    """
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            waiting.extend(value for value in item.values() if type(value) in (dict, list))
        elif type(item) is list:
            waiting.extend(_checked(item))


def _checked(item: list[Any]) -> list[Any]:
    """Check one term and return those parts of it that are still to be checked."""
    if not 1 <= len(item) <= 3 or type(item[0]) is not int:
        raise compile_error(f"Expected 3 items in array, but found {len(item)}.")
    arguments: list[Any] = item[1] if len(item) > 1 else []
    options: dict[str, Any] = item[2] if len(item) == 3 else {}
    known = TERMS.get(item[0])
    if item[0] == _MAKE_ARRAY:
        return [value for value in arguments if type(value) in (dict, list)]
    if known is None:
        # A real server says this of a number that it does not know; the sandbox knows fewer.
        raise compile_error(f"Unrecognized TermType: {item[0]}.")
    _check_arity(known, arguments)
    for option in options:
        if option not in known.options:
            error = compile_error(f"Unrecognized optional argument `{option}`.")
            error.frames.append(option)
            raise error
    return [*arguments, *options.values()]


def _check_arity(known: Term, arguments: list[Any]) -> None:
    if any(type(value) is list and value[:1] == [_ARGS] for value in arguments):
        return
    count, minimum, maximum = len(arguments), known.min_arguments, known.max_arguments
    if minimum <= count and (maximum is None or count <= maximum):
        return
    if maximum is None:
        wanted = counted(minimum, "or more argument")
    elif maximum == minimum:
        wanted = counted(minimum, "argument")
    else:
        wanted = f"between {minimum} and {maximum} arguments"
    raise compile_error(f"Expected {wanted} but found {count}.")


@dataclass(slots=True)
class Query:
    """One running query: its server, its user, and its global options (still as terms)."""

    engine: Engine
    user: str
    options: dict[str, Any] = field(default_factory=dict)
    has_literals: bool = False

    def option(self, name: str) -> Value:
        """Return the value of a global option; None: it was not given."""
        return self.evaluate(self.options[name], {}) if name in self.options else None

    def evaluate(self, item: Any, scope: Scope) -> Value:
        """Return the value of a term or of plain data."""
        kind = type(item)
        if kind is dict:
            return self._object(item, scope)
        if kind is list:
            if item[0] == _MAKE_ARRAY:
                return self._array(item[1] if len(item) > 1 else [], scope)
            return TERMS[item[0]].run(Call(self, item, scope))
        return item if kind in _PLAIN else self.number(item)

    def datum(self, item: Any, scope: Scope) -> Datum:
        """Return the value of ``item``, which must be data."""
        kind = type(item)
        if kind in _PLAIN:
            return item
        return self.to_datum(self.evaluate(item, scope))

    def to_datum(self, value: Value) -> Datum:
        """Return ``value`` as data: a document is read; a stream is refused."""
        kind = type(value)
        if kind is Sequence and value.kind == "ARRAY":
            return self.to_array(value)
        if kind is RowValue:
            return value.read()
        if kind in (Sequence, DatabaseValue, FeedValue, Function) or is_table(value):
            raise logic(f"Expected type DATUM but found {describe(value)}")
        return value

    def to_array(self, value: Sequence) -> list[Datum]:
        """Return the elements of a stream.

        Raises:
            ReqlError: there are more than an array may have.
        """
        array = []
        for element in value.data():
            array.append(element)
            if len(array) > self.array_limit:
                raise self.too_many()
        return array

    @property
    def array_limit(self) -> int:
        """Return the number of elements that an array may have."""
        limit = self.option("array_limit")
        return limit if isinstance(limit, int) else ARRAY_LIMIT

    def too_many(self) -> ReqlError:
        """Return the error for an array that is too long."""
        return resource_limit(
            f"Array over size limit `{self.array_limit}`.  To raise the number of allowed "
            "elements, modify the `array_limit` option to `.run` (not available in the Data "
            "Explorer), or use an index."
        )

    @staticmethod
    def number(value: float) -> floats.Number:
        """Return ``value`` as RethinkDB's number."""
        try:
            return floats.number_from(value)
        except ValueError as err:
            raise logic(f"Non-finite number: {err}") from err

    def _array(self, items: list[Any], scope: Scope) -> list[Datum]:
        if len(items) > self.array_limit:
            raise self.too_many()
        array = []
        for index, item in enumerate(items):
            try:
                array.append(item if type(item) is str else self.datum(item, scope))
            except ReqlError as err:
                err.frames.insert(0, index)
                raise
        return array

    def _object(self, item: dict[str, Any], scope: Scope) -> Datum:
        result: dict[str, Datum] = {}
        name = ""
        try:
            for name, value in item.items():
                result[name] = value if type(value) is str else self.datum(value, scope)
        except ReqlError as err:
            err.frames.insert(0, name)
            raise
        return pseudo_types.normalized(result) if PSEUDO_TYPE in result else result


class Call:
    """One term at work: evaluates its arguments when asked for them."""

    __slots__ = ("_options", "arguments", "query", "scope")

    def __init__(self, query: Query, item: list[Any], scope: Scope) -> None:
        """Hold the term's arguments; ``r.args`` is spread here."""
        self.query = query
        self.scope = scope
        self.arguments: list[Any] = item[1] if len(item) > 1 else []
        self._options: dict[str, Any] = item[2] if len(item) > 2 else {}
        if any(type(value) is list and value[:1] == [_ARGS] for value in self.arguments):
            self.arguments = self._spread()

    def __len__(self) -> int:
        """Return the number of arguments."""
        return len(self.arguments)

    def value(self, index: int) -> Value:
        """Return argument ``index``."""
        try:
            return self.query.evaluate(self.arguments[index], self.scope)
        except ReqlError as err:
            err.frames.insert(0, index)
            raise

    def datum(self, index: int) -> Datum:
        """Return argument ``index`` as data."""
        value = self.value(index)
        try:
            return self.query.to_datum(value)
        except ReqlError as err:
            err.frames.insert(0, index)
            raise

    def string(self, index: int) -> str:
        """Return argument ``index``, which must be a string."""
        value = self.datum(index)
        if not isinstance(value, str):
            raise self.at(index, logic(f"Expected type STRING but found {type_name(value)}."))
        return value

    def function(self, index: int) -> Function | None:
        """Return argument ``index`` if it is written as a function."""
        item = self.arguments[index]
        if type(item) is list and item[0] == _FUNC:
            value = self.value(index)
            return value if isinstance(value, Function) else None
        return None

    def apply(self, index: int, function: Function, *arguments: Datum) -> Value:
        """Call ``function``, which is argument ``index``."""
        try:
            return function.call(*arguments)
        except ReqlError as err:
            err.frames[:0] = [index, 1]
            raise

    def sequence(self, index: int) -> Sequence:
        """Return argument ``index`` as a stream: a table, a selection, an array."""
        value = self.value(index)
        if isinstance(value, FeedValue):
            raise self.at(
                index,
                logic(
                    "Cannot call a terminal (`reduce`, `count`, etc.) on an infinite stream "
                    "(such as a changefeed)."
                ),
            )
        return to_sequence(self.query, value)

    def option(self, name: str) -> Datum:
        """Return the option ``name`` as data; None: it was not given."""
        if name not in self._options:
            return None
        try:
            return self.query.datum(self._options[name], self.scope)
        except ReqlError as err:
            err.frames.insert(0, name)
            raise

    def option_function(self, name: str) -> Function | None:
        """Return the option ``name`` if it is written as a function."""
        item = self._options.get(name)
        if type(item) is list and item[0] == _FUNC:
            value = self.query.evaluate(item, self.scope)
            return value if isinstance(value, Function) else None
        return None

    def has_option(self, name: str) -> bool:
        """Return whether the option ``name`` was given."""
        return name in self._options

    @staticmethod
    def at(place: int | str, error: ReqlError) -> ReqlError:
        """Return ``error`` with ``place`` (an argument or an option) as the part at fault."""
        error.frames.insert(0, place)
        return error

    def _spread(self) -> list[Any]:
        spread: list[Any] = []
        for item in self.arguments:
            if type(item) is list and item[:1] == [_ARGS]:
                array = self.query.datum(item[1][0], self.scope)
                spread.extend(quoted(element) for element in array)
            else:
                spread.append(item)
        return spread


def to_sequence(query: Query, value: Value) -> Sequence:
    """Return ``value`` as a stream."""
    if isinstance(value, Sequence):
        return value
    if is_table(value):
        return scan(value)
    datum = query.to_datum(value)
    if isinstance(datum, list):
        return Sequence(datum, kind="ARRAY")
    raise logic(f"Cannot convert {type_name(datum)} to SEQUENCE")


def quoted(value: Datum) -> Any:
    """Return a datum as the term that means it."""
    if isinstance(value, list):
        return [_MAKE_ARRAY, [quoted(item) for item in value]]
    if isinstance(value, dict):
        return {name: quoted(item) for name, item in value.items()}
    return value
