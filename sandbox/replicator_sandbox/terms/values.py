"""Terms that make values: data, functions, variables, now, uuid, r.args."""

import time
import uuid
from datetime import datetime

from replicator_sandbox.datum import Datum, type_name
from replicator_sandbox.protocol import ErrorType
from replicator_sandbox.pseudo_types import normalized, time_at
from replicator_sandbox.reql_errors import ReqlError, compile_error, logic
from replicator_sandbox.terms.core import Call, term
from replicator_sandbox.terms.kinds import IMPLICIT, Function, Sequence, Value


@term(1, "datum", 1)
def datum(call: Call) -> Value:
    """Return plain data."""
    return call.datum(0)


@term(154, "args", 1)
def args(call: Call) -> Value:
    """Refuse ``r.args`` outside of a list of arguments, where it has no meaning."""
    del call
    raise compile_error("r.args is not supported in an order_by or union.")


@term(69, "func", 2)
def func(call: Call) -> Value:
    """Return a function with its parameters."""
    parameters = call.datum(0)
    return Function(call.query.evaluate, tuple(parameters), call.arguments[1], call.scope)


@term(10, "var", 1)
def var(call: Call) -> Value:
    """Return a parameter of a function around this term."""
    name = call.datum(0)
    if name not in call.scope:
        raise compile_error("Variable name not found.")
    return call.scope[name]


@term(13, "implicit_var")
def implicit_var(call: Call) -> Value:
    """Return ``r.row``."""
    if IMPLICIT not in call.scope:
        raise compile_error("r.row is not defined in this context.")
    return call.scope[IMPLICIT]


@term(64, "funcall", 1, -1)
def funcall(call: Call) -> Value:
    """Call a function with arguments: ``do``."""
    function = call.value(0)
    if not isinstance(function, Function):
        return function
    return call.apply(0, function, *(_argument(call, index) for index in range(1, len(call))))


def _argument(call: Call, index: int) -> Value:
    """Return an argument, which the function may read more than once."""
    value = call.value(index)
    is_array = isinstance(value, Sequence) and value.kind == "ARRAY"
    return call.query.to_array(value) if is_array else value


@term(12, "error", 0, 1)
def error(call: Call) -> Value:
    """Raise the user's error; without a text, an error that only ``default`` expects."""
    if not len(call):
        raise ReqlError("Empty ERROR term outside a default block.", ErrorType.NON_EXISTENCE)
    raise ReqlError(call.string(0), ErrorType.USER)


@term(103, "now")
def now(call: Call) -> Value:
    """Return the time now."""
    del call
    return time_at(time.time())


@term(101, "epoch_time", 1)
def epoch_time(call: Call) -> Value:
    """Return the time that is the given number of seconds after 1970."""
    return time_at(_number(call.datum(0)))


@term(99, "iso8601", 1, 1, options="default_timezone")
def iso8601(call: Call) -> Value:
    """Return the time that a text in ISO 8601 means; drivers send dates in this form."""
    text = call.string(0)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as err:
        raise logic(f"Garbage characters in ISO 8601 string `{text}`.") from err
    if parsed.tzinfo is None:
        zone = call.option("default_timezone")
        if not isinstance(zone, str):
            raise logic("ISO 8601 string has no time zone, and no default time zone was provided.")
        parsed = datetime.fromisoformat(text + zone)
    offset = parsed.strftime("%z")
    return time_at(parsed.timestamp(), f"{offset[:3]}:{offset[3:5]}")


@term(104, "in_timezone", 2)
def in_timezone(call: Call) -> Value:
    """Return the same instant in another zone."""
    instant = call.datum(0)
    if type_name(instant) != "PTYPE<TIME>":
        raise logic(f"Not a TIME pseudotype: `{instant}`.")
    return normalized({**instant, "timezone": call.string(1)})


@term(102, "to_epoch_time", 1)
def to_epoch_time(call: Call) -> Value:
    """Return the seconds since 1970."""
    instant = call.datum(0)
    if type_name(instant) != "PTYPE<TIME>":
        raise logic(f"Not a TIME pseudotype: `{instant}`.")
    return instant["epoch_time"]


@term(169, "uuid", 0, 1)
def make_uuid(call: Call) -> Value:
    """Return a random UUID, or the one that belongs to a name."""
    if not len(call):
        return str(uuid.uuid4())
    # The namespace is the server's own constant, so that one name gives one UUID everywhere.
    return str(uuid.uuid5(uuid.UUID("91461c99-f89d-49d2-af96-d8e2e14e9b58"), call.string(0)))


@term(155, "binary", 1)
def binary(call: Call) -> Value:
    """Return a binary as it is; drivers send the pseudo-type themselves."""
    return call.datum(0)


@term(137, "literal", 0, 1)
def literal(call: Call) -> Value:
    """Return the mark that makes ``merge`` replace instead of merging."""
    call.query.has_literals = True
    mark: dict[str, Datum] = {"$reql_type$": "LITERAL"}
    if len(call):
        mark["value"] = call.datum(0)
    return mark


@term(180, "minval")
def minval(call: Call) -> Value:
    """Return what sorts before every key."""
    del call
    return MINVAL


@term(181, "maxval")
def maxval(call: Call) -> Value:
    """Return what sorts after every key."""
    del call
    return MAXVAL


@term(173, "range", 1, 2)
def number_range(call: Call) -> Value:
    """Return the whole numbers up to, or between, the arguments."""
    bounds = [int(_number(call.datum(index))) for index in range(len(call))]
    return Sequence(range(*bounds))


class Extremum:
    """A bound of ``between`` that is not a key."""

    is_extremum = True


MINVAL, MAXVAL = Extremum(), Extremum()


def _number(value: Datum) -> float:
    if type_name(value) != "NUMBER":
        raise logic(f"Expected type NUMBER but found {type_name(value)}.")
    return float(value)
