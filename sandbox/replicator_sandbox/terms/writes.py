"""Insert, update, replace, delete, for_each: documents change one at a time, each atomically."""

import uuid
from collections.abc import Callable, Iterator

from replicator_sandbox.datum import (
    Datum,
    decode,
    encode,
    equal,
    merged,
    refuse_literals,
    type_name,
)
from replicator_sandbox.datum import pretty as pretty_datum
from replicator_sandbox.keys import key_bytes
from replicator_sandbox.reql_errors import ReqlError, logic
from replicator_sandbox.table_access import AnyTable
from replicator_sandbox.terms.core import Call, term, to_sequence
from replicator_sandbox.terms.determinism import is_deterministic
from replicator_sandbox.terms.kinds import (
    FeedValue,
    Function,
    RowValue,
    Sequence,
    Value,
    describe,
    is_table,
    scan,
)
from replicator_sandbox.terms.tables import table_argument

Compute = Callable[[Datum], Datum]
"""Makes the new document, or None, of the old one, or None."""

_WRITE_OPTIONS = "return_changes durability non_atomic ignore_write_hook"


class WriteResult:
    """The counts that a write reports, and the changes if they were asked for."""

    def __init__(self, return_changes: Datum) -> None:
        """Count from zero; ``return_changes`` is false, true or "always"."""
        self.counts = dict.fromkeys(
            ("deleted", "errors", "inserted", "replaced", "skipped", "unchanged"), 0
        )
        self.generated_keys: list[str] = []
        self._first_error: str | None = None
        self._return_changes = return_changes
        self._changes: list[Datum] = []

    def note(
        self, outcome: str, old: bytes | None, new: bytes | None, error: str | None = None
    ) -> None:
        """Count one document."""
        self.counts[outcome] += 1
        if error is not None and self._first_error is None:
            self._first_error = error
        is_change = outcome in ("deleted", "inserted", "replaced")
        if self._return_changes == "always" or (self._return_changes is True and is_change):
            change: dict[str, Datum] = {"new_val": _read(new), "old_val": _read(old)}
            if error is not None:
                change["error"] = error
            self._changes.append(change)

    def report(self) -> dict[str, Datum]:
        """Return what the client gets."""
        result: dict[str, Datum] = dict(self.counts)
        if self.generated_keys:
            result["generated_keys"] = self.generated_keys
        if self._first_error is not None:
            result["first_error"] = self._first_error
        if self._return_changes:
            result["changes"] = self._changes
        return result


def _read(document: bytes | None) -> Datum:
    return None if document is None else decode(document)


def _start(call: Call, table: AnyTable) -> WriteResult:
    """Check the options of a write and the permission for it."""
    durability = call.option("durability")
    if durability not in (None, "hard", "soft"):
        raise call.at(
            "durability",
            logic(
                f'Durability option `{durability}` unrecognized (options are "hard" and "soft").'
            ),
        )
    return_changes = call.option("return_changes")
    if return_changes not in (None, True, False, "always"):
        raise logic(
            f"Invalid return_changes value `{return_changes}` "
            "(options are `true`, `false`, and `'always'`.)"
        )
    table.require("write")
    return WriteResult(return_changes)


def replace_one(
    result: WriteResult, table: AnyTable, key: bytes, key_value: Datum, compute: Compute
) -> None:
    """Replace one document by what ``compute`` makes of it, and count the outcome."""
    old_text = table.read_to_write(key)
    try:
        old = _read(old_text)
        new = compute(old)
        if new is None:
            new_text = None
        else:
            refuse_literals(new)
            _check_document(table.primary_key, old, key_value, new)
            new_text = encode(new)
        _commit(result, table, key, old_text, new_text)
    except ReqlError as err:
        result.note("errors", old_text, old_text, err.message)


def _commit(
    result: WriteResult, table: AnyTable, key: bytes, old: bytes | None, new: bytes | None
) -> None:
    if old is None and new is None:
        result.note("skipped", None, None)
    elif not table.put(key, old, new):
        result.note("unchanged", old, old)
    elif new is None:
        result.note("deleted", old, None)
    else:
        result.note("inserted" if old is None else "replaced", old, new)


def _check_document(primary_key: str, old: Datum, key_value: Datum, new: Datum) -> None:
    """Refuse a value that is not a document, or has no primary key, or another one than before."""
    if type_name(new) != "OBJECT":
        raise logic(
            f"Inserted value must be an OBJECT (got {type_name(new)}):\n{pretty_datum(new)}"
        )
    if primary_key not in new:
        raise logic(f"Inserted object must have primary key `{primary_key}`:\n{pretty_datum(new)}")
    if equal(new[primary_key], key_value):
        return
    if old is None:
        raise logic(f"Primary key `{primary_key}` cannot be changed (null -> {pretty_datum(new)})")
    raise logic(
        f"Primary key `{primary_key}` cannot be changed "
        f"(`{pretty_datum(old)}` -> `{pretty_datum(new)}`)."
    )


@term(56, "insert", 2, 2, options=f"conflict {_WRITE_OPTIONS}")
def insert(call: Call) -> Value:
    """Insert one document or several."""
    table = table_argument(call, 0)
    documents = _documents(call)
    conflict = _conflict(call)
    result = _start(call, table)
    for document in documents:
        _insert_one(call, result, table, document, conflict)
    return result.report()


def _documents(call: Call) -> Iterator[Datum] | list[Datum]:
    value = call.value(1)
    if isinstance(value, dict):
        return [value]
    return iter(list(to_sequence(call.query, value).data()))


def _conflict(call: Call) -> str | Function:
    function = call.option_function("conflict")
    if function is not None:
        return function
    raw = call.option("conflict") if call.has_option("conflict") else "error"
    if raw not in ("error", "replace", "update"):
        raise call.at(
            "conflict",
            logic(
                f"Conflict option `{raw}` unrecognized "
                '(options are "error", "replace" and "update").'
            ),
        )
    return str(raw)


def _insert_one(
    call: Call, result: WriteResult, table: AnyTable, document: Datum, conflict: str | Function
) -> None:
    primary_key = table.primary_key
    old_text = new_text = None
    try:
        if not isinstance(document, dict):
            raise logic(f"Expected type OBJECT but found {type_name(document)}.")
        if call.query.has_literals:
            refuse_literals(document)
        if primary_key not in document:
            document = {**document, primary_key: str(uuid.uuid4())}
            result.generated_keys.append(document[primary_key])
        key = key_bytes(document[primary_key])
        old_text = table.read_to_write(key)
        if old_text is None:
            new_text = encode(document)
            table.put(key, None, new_text)
    except ReqlError as err:
        result.note("errors", None, None, err.message)
        return
    if old_text is None:
        result.note("inserted", None, new_text)
    else:
        resolve = _resolution(call, primary_key, document, conflict)
        replace_one(result, table, key, document[primary_key], resolve)


def _resolution(call: Call, primary_key: str, document: Datum, conflict: str | Function) -> Compute:
    """Return what an insert makes of a document that is already there."""

    def resolve(old: Datum) -> Datum:
        if isinstance(conflict, Function):
            # A real server gives the function the key's name, not its value.
            return call.query.to_datum(conflict.call(primary_key, old, document))
        if conflict == "replace":
            return document
        if conflict == "update":
            return merged(old, document)
        raise logic(
            f"Duplicate primary key `{primary_key}`:\n{pretty_datum(old)}\n{pretty_datum(document)}"
        )

    return resolve


def _targets(call: Call) -> tuple[AnyTable, list[tuple[bytes, Datum]]]:
    """Return the table and the keys of the documents to be written."""
    value = call.value(0)
    if isinstance(value, RowValue):
        return value.table, [(value.key, value.key_value)]
    if is_table(value):
        value = scan(value)
    if isinstance(value, (Sequence, FeedValue)):
        if isinstance(value, FeedValue) or value.table is None:
            raise call.at(0, logic(f"Expected type SELECTION but found {describe(value)}"))
        name = value.table.primary_key
        keys = [document[name] for document in value.data()]
        return value.table, [(key_bytes(key), key) for key in keys]
    datum = call.query.to_datum(value)
    raise call.at(
        0,
        logic(
            "Expected type SELECTION but found DATUM:\n"
            f"VALUE {type_name(datum)}:\n{pretty_datum(datum)}"
        ),
    )


def _computed(call: Call, combine: Callable[[Datum, Datum], Datum]) -> Compute:
    """Return how argument 1, data or a function, makes the new document."""
    if not call.option("non_atomic") and not is_deterministic(call.arguments[1]):
        raise logic(
            "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?"
        )
    function = call.function(1)
    if function is None:
        fixed = call.datum(1)
        return lambda old: combine(old, fixed)
    computing = function
    return lambda old: combine(old, call.query.to_datum(computing.call(old)))


@term(53, "update", 2, 2, options=_WRITE_OPTIONS)
def update(call: Call) -> Value:
    """Merge an object, or what a function makes of the document, into documents."""

    def combine(old: Datum, change: Datum) -> Datum:
        if change is None:
            return old
        if not isinstance(change, dict):
            raise logic(
                f"Inserted value must be an OBJECT (got {type_name(change)}):\n"
                f"{pretty_datum(change)}"
            )
        return merged(old, change)

    compute = _computed(call, combine)
    return _replace_all(call, lambda old: None if old is None else compute(old))


@term(55, "replace", 2, 2, options=_WRITE_OPTIONS)
def replace(call: Call) -> Value:
    """Replace documents whole; null deletes."""
    return _replace_all(call, _computed(call, lambda _old, new: new))


@term(54, "delete", 1, 1, options=_WRITE_OPTIONS)
def delete(call: Call) -> Value:
    """Delete documents."""
    return _replace_all(call, lambda _old: None)


def _replace_all(call: Call, compute: Compute) -> Value:
    table, targets = _targets(call)
    result = _start(call, table)
    for key, key_value in targets:
        replace_one(result, table, key, key_value, compute)
    return result.report()


@term(68, "for_each", 2)
def for_each(call: Call) -> Value:
    """Run the writes that a function makes of each element, and add up what they report."""
    function = call.function(1)
    if function is None:
        raise logic("Expected type FUNCTION as second argument of `for_each`.")
    total: dict[str, Datum] = {}
    for element in call.sequence(0).data():
        written = call.query.to_datum(call.apply(1, function, element))
        reports = written if isinstance(written, list) else [written]
        for report in reports:
            if not isinstance(report, dict) or "inserted" not in report:
                raise logic("FOR_EACH expects one or more basic write queries.")
            _add_up(total, report)
    return total


def _add_up(total: dict[str, Datum], report: dict[str, Datum]) -> None:
    for name, value in report.items():
        if name == "first_error":
            total.setdefault(name, value)
        elif name in total:
            total[name] = total[name] + value
        else:
            total[name] = value
