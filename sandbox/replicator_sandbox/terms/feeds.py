"""The term ``changes``: checks its options and says which feed to open."""

from collections.abc import Callable

from replicator_sandbox.changefeed import DEFAULT_QUEUE_SIZE, Feed, FeedOptions
from replicator_sandbox.datum import Datum, type_name
from replicator_sandbox.reql_errors import logic
from replicator_sandbox.spans import KeyRange
from replicator_sandbox.terms.core import Call, term
from replicator_sandbox.terms.kinds import FeedValue, RowValue, Sequence, Value, is_table
from replicator_sandbox.terms.logic import is_true

_OPTIONS = (
    "squash changefeed_queue_size include_initial include_states include_types include_offsets"
)


@term(152, "changes", 1, 1, options=_OPTIONS)
def changes(call: Call) -> Value:
    """Return a changefeed on a table, a part of it, or one document."""
    options = _options(call)
    value = call.value(0)
    if isinstance(value, RowValue):
        row = value
        return FeedValue(lambda: row.table.point_feed(row.key, options), options, is_point=True)
    if is_table(value):
        table = value
        return FeedValue(lambda: table.feed(KeyRange(), (), options), options)
    if isinstance(value, Sequence):
        return FeedValue(_opener(call, value, options), options)
    datum = call.query.to_datum(value)
    if isinstance(datum, list):
        raise call.at(0, logic("Cannot call `changes` on an eager stream."))
    raise logic(f"Cannot convert {type_name(datum)} to SEQUENCE")


def _opener(call: Call, sequence: Sequence, options: FeedOptions) -> Callable[[], Feed]:
    source = sequence.source
    if source is None:
        error = logic(sequence.refusal)
        raise call.at(0, error) if "eager" in sequence.refusal else error
    span = sequence.span or KeyRange()
    return lambda: source.feed(span, sequence.transforms, options)


def _options(call: Call) -> FeedOptions:
    squash: Datum = call.option("squash")
    if squash is not None and type_name(squash) not in ("BOOL", "NUMBER"):
        raise call.at("squash", logic(f"Expected BOOL or NUMBER but found {type_name(squash)}."))
    seconds = float(squash) if type_name(squash) == "NUMBER" else 0.0
    if seconds < 0:
        raise call.at(
            "squash",
            logic("Expected BOOL or a positive NUMBER but found a negative NUMBER."),
        )
    if is_true(call.option("include_offsets")):
        raise logic("Cannot include offsets for range subs.")
    return FeedOptions(
        squash=is_true(squash) if squash is not None else False,
        squash_seconds=seconds,
        include_initial=is_true(call.option("include_initial")),
        include_states=is_true(call.option("include_states")),
        include_types=is_true(call.option("include_types")),
        queue_size=_queue_size(call),
    )


def _queue_size(call: Call) -> int:
    name = "changefeed_queue_size"
    size: Datum = call.option(name)
    if size is None:
        size = call.query.option(name)
    if size is None:
        return DEFAULT_QUEUE_SIZE
    if type_name(size) != "NUMBER":
        raise call.at(name, logic(f"Expected type NUMBER but found {type_name(size)}."))
    if size < 1:
        raise logic(f"Illegal changefeed queue size `{size}`.  (Must be >= 1.)")
    return int(size)
