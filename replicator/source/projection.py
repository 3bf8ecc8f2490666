"""Which fields RethinkDB sends: settings become part of the query, so the rest never leaves it."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rethinkdb import r

from replicator.domain.field_path import FieldPath, FieldTree, tree_of, write_path
from replicator.domain.model import TableName
from replicator.errors import SettingsInvalid

# By `type_of`. A path ends at these without having met its field, so they have nothing to leave
# out. Any other type (a time, a binary, a geometry, an array in an array) cannot be searched.
_WITHOUT_FIELDS: Final = ("NULL", "BOOL", "NUMBER", "STRING")
_SEARCHED: Final = ("OBJECT", *_WITHOUT_FIELDS)


class FieldRules(NamedTuple):
    """The fields that RethinkDB sends, or those that it leaves out; neither: all are sent."""

    include: Sequence[FieldPath] = ()
    exclude: Sequence[FieldPath] = ()

    def require(self, primary_key: str, name: TableName) -> None:
        """Refuse to leave out the primary key, or a part of it.

        Raises:
            SettingsInvalid: ``exclude_fields`` names it, or ``include_fields`` only a part of it.
        """
        excluded = [("exclude_fields", path) for path in self.exclude]
        parts = [("include_fields", path) for path in self.include if len(path) > 1]
        for key, path in excluded + parts:
            if path[0] == primary_key:
                raise SettingsInvalid(
                    f"tables[{name}].{key} names {write_path(path)!r}, and {primary_key!r} is the "
                    "table's primary key",
                    hint="the primary key is always sent, and whole: remove this path",
                )


def projected(table: Any, fields: FieldRules, primary_key: str, name: TableName) -> Any:
    """Return the query of a table with only the fields that are wanted.

    Raises:
        SettingsInvalid: the primary key would be left out.
    """
    fields.require(primary_key, name)
    if fields.include:
        tree = tree_of([path for path in fields.include if path != (primary_key,)])
        return table.pluck(_sendable(primary_key), _pattern(tree))
    tree = tree_of(fields.exclude)
    if any(tree.values()):
        return table.map(lambda document: _left_out(document, tree))
    return table.without(*tree) if tree else table


def _pattern(tree: FieldTree) -> dict[str, Any]:
    """Return the paths as ``pluck`` takes them.

    All in one: of two patterns that begin with the same name, ``pluck`` heeds only the last
    (tests/contract/test_projection.py).
    """
    return {name: _pattern(inner) or True for name, inner in tree.items()}


def _left_out(value: Any, tree: FieldTree) -> Any:
    """Return an object without the fields of the tree.

    Not by RethinkDB's ``without``: it leaves a value as it is that has anything but objects on the
    way, such as an array of objects and nulls, and would publish what was to be left out.

    Nothing here may fail for any document: RethinkDB would keep it out of the feed, and it would be
    taken for deleted.
    """
    cut = value.without(*tree)
    for name, inner in tree.items():
        if inner:
            searched = _searched(value[name], name, inner)
            null_or_missing = value.pluck(name)
            cut = cut.merge(r.branch(value.has_fields(name), searched, null_or_missing))
    return cut


def _searched(value: Any, name: str, tree: FieldTree) -> Any:
    """Return the object of one field in which the tree is left out of a value.

    Whatever cannot be searched is left out whole: the value itself, or an item of an array.
    """
    is_array = value.type_of() == "ARRAY"
    items = (
        r.branch(is_array, value, [value])
        .filter(lambda item: r.expr(_SEARCHED).contains(item.type_of()))
        .map(lambda item: r.branch(item.type_of() == "OBJECT", _left_out(item, tree), item))
    )
    searched = items.do(
        lambda found: r.branch(is_array, {name: found}, found.is_empty(), {}, {name: found[0]})
    )
    if any(tree.values()):
        return searched
    # The usual case: twice as many documents a second, since it calls no function for each.
    return r.branch(value.type_of() == "OBJECT", {name: value.without(*tree)}, searched)


def _sendable(name: str) -> Any:
    """Return a field's name for a query: the driver cannot send half a surrogate pair as it is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return r.json(json.dumps(name))
    return name
