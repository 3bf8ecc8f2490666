"""Comparison, boolean logic, arithmetic and control flow."""

from collections.abc import Callable
from functools import reduce

from replicator_sandbox.datum import Datum, compare, decode, encode, type_name
from replicator_sandbox.protocol import ErrorType
from replicator_sandbox.reql_errors import ReqlError, logic
from replicator_sandbox.terms.core import Call, term
from replicator_sandbox.terms.kinds import Function, Value


def is_true(value: Datum) -> bool:
    """Return whether ``value`` counts as true: everything except false and null."""
    return value is not False and value is not None


def _comparison(number: int, name: str, holds: Callable[[int], bool]) -> None:
    """Register a comparison that must hold between every two neighbours."""

    def run(call: Call) -> Value:
        left = call.datum(0)
        for index in range(1, len(call)):
            right = call.datum(index)
            if not holds(compare(left, right)):
                return False
            left = right
        return True

    term(number, name, 2, -1)(run)


_comparison(17, "eq", lambda order: order == 0)
_comparison(19, "lt", lambda order: order < 0)
_comparison(20, "le", lambda order: order <= 0)
_comparison(21, "gt", lambda order: order > 0)
_comparison(22, "ge", lambda order: order >= 0)


@term(18, "ne", 2, -1)
def ne(call: Call) -> Value:
    """Return whether not all arguments are equal."""
    first = call.datum(0)
    return any(compare(first, call.datum(index)) != 0 for index in range(1, len(call)))


@term(23, "not", 1)
def negate(call: Call) -> Value:
    """Return the opposite."""
    return not is_true(call.datum(0))


@term(67, "and", 0, -1)
def conjunction(call: Call) -> Value:
    """Return the first argument that is not true, or the last."""
    value: Datum = True
    for index in range(len(call)):
        value = call.datum(index)
        if not is_true(value):
            break
    return value


@term(66, "or", 0, -1)
def disjunction(call: Call) -> Value:
    """Return the first argument that is true, or the last."""
    value: Datum = False
    for index in range(len(call)):
        value = call.datum(index)
        if is_true(value):
            break
    return value


@term(65, "branch", 3, -1)
def branch(call: Call) -> Value:
    """Return the value after the first true test, or the last argument."""
    for index in range(0, len(call) - 1, 2):
        if is_true(call.datum(index)):
            return call.value(index + 1)
    return call.value(len(call) - 1)


@term(92, "default", 2)
def default(call: Call) -> Value:
    """Return the second argument if the first is null or does not exist."""
    missing: ReqlError | None = None
    try:
        value = call.value(0)
        if value is not None:
            return value
    except ReqlError as err:
        if err.error_type != ErrorType.NON_EXISTENCE:
            raise
        missing = err
    fallback = call.value(1)
    if isinstance(fallback, Function):
        return fallback.call(None if missing is None else missing.message)
    return fallback


def _expect(value: Datum, wanted: str) -> None:
    if type_name(value) != wanted:
        raise logic(f"Expected type {wanted} but found {type_name(value)}.")


@term(24, "add", 1, -1)
def add(call: Call) -> Value:
    """Add numbers, join strings or arrays, move a time by seconds."""
    total = call.datum(0)
    for index in range(1, len(call)):
        value = call.datum(index)
        kind = type_name(total)
        if kind == "PTYPE<TIME>":
            _expect(value, "NUMBER")
            total = {**total, "epoch_time": call.query.number(total["epoch_time"] + value)}
            continue
        _expect(value, kind if kind in ("STRING", "ARRAY") else "NUMBER")
        if kind not in ("STRING", "ARRAY"):
            _expect(total, "NUMBER")
            total = call.query.number(total + value)
        else:
            total = total + value
    return total


def _arithmetic(number: int, name: str, operate: Callable[[float, float], float]) -> None:
    """Register an operation on numbers, from left to right."""

    def run(call: Call) -> Value:
        values = [call.datum(index) for index in range(len(call))]
        for value in values:
            _expect(value, "NUMBER")
        return call.query.number(reduce(operate, values))

    term(number, name, 1, -1)(run)


def _divide(left: float, right: float) -> float:
    if right == 0:
        raise logic("Cannot divide by zero.")
    return left / right


def _modulo(left: float, right: float) -> float:
    if right == 0:
        raise logic("Cannot take a number modulo 0.")
    result = abs(int(left)) % abs(int(right))
    return result if left >= 0 else -result


_arithmetic(25, "sub", lambda left, right: left - right)
_arithmetic(26, "mul", lambda left, right: left * right)
_arithmetic(27, "div", _divide)
_arithmetic(28, "mod", _modulo)


@term(52, "type_of", 1)
def type_of(call: Call) -> Value:
    """Return the name of a type."""
    value = call.value(0)
    if getattr(value, "is_table", False):
        return "TABLE"
    return type_name(call.query.to_datum(value))


@term(51, "coerce_to", 2)
def coerce_to(call: Call) -> Value:
    """Convert: anything to a string, a stream to an array, a string to a number."""
    wanted = call.string(1).upper()
    if wanted == "ARRAY":
        return call.query.to_array(call.sequence(0))
    value = call.datum(0)
    if wanted == "STRING":
        return value if isinstance(value, str) else encode(value).decode()
    if wanted == "NUMBER" and isinstance(value, str):
        try:
            return call.query.number(float(value))
        except ValueError as err:
            raise logic(f"Could not coerce `{value}` to NUMBER.") from err
    if wanted == "BOOL":
        return is_true(value)
    if wanted == type_name(value):
        return value
    raise logic(f"Cannot coerce {type_name(value)} to {wanted}.")


@term(172, "to_json_string", 1)
def to_json_string(call: Call) -> Value:
    """Return the JSON text of a value."""
    return encode(call.datum(0)).decode()


@term(98, "json", 1)
def json(call: Call) -> Value:
    """Return the value that a JSON text means."""
    text = call.string(0)
    try:
        return decode(text.encode())
    except ValueError as err:
        raise logic(f'Failed to parse "{text}" as JSON.') from err
