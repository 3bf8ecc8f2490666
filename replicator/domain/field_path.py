r"""Paths to fields of a document, as settings write them: ``card.number``.

A dot goes into an object. A dot, ``*``, ``[`` or backslash that is part of a name has a backslash
before it. ``*`` and ``[`` alone are refused: there are no wildcards, and nobody must believe that
one works. Pure text: what RethinkDB makes of a path is in `replicator.source.projection`.
"""

from collections.abc import Collection
from typing import Final, TypeAlias

FieldPath: TypeAlias = tuple[str, ...]
"""The names from the document's top to the field; at least one."""
FieldTree: TypeAlias = dict[str, "FieldTree"]
"""Paths by their first names; a name without more below it is where a path ends."""

MAX_NAMES: Final = 16
"""In a path: the driver refuses queries that are nested more deeply."""

_TYPE_MARK: Final = "$reql_type$"
_WILDCARDS: Final = "*["
_ESCAPED: Final = rf".\{_WILDCARDS}"
_IN_NAMES: Final = str.maketrans({each: f"\\{each}" for each in _ESCAPED})


def parse_path(text: str) -> FieldPath:
    """Read a path.

    Raises:
        ValueError: it has an empty name, another escape, too many names, or a name that is not a
            field's.
    """
    names = [""]
    characters = iter(text)
    for character in characters:
        if character == ".":
            names.append("")
        elif character in _WILDCARDS:
            raise ValueError(
                rf"{text!r}: there are no wildcards and positions, each object of an array is "
                rf"looked into by itself; in a name it is written \{character}"
            )
        elif character != "\\":
            names[-1] += character
        elif (escaped := next(characters, "")) and escaped in _ESCAPED:
            names[-1] += escaped
        else:
            raise ValueError(rf"{text!r}: after \ comes one of {' '.join(_ESCAPED)}")
    if not all(names):
        raise ValueError(rf"{text!r} has an empty name; a dot in a name is written \.")
    if len(names) > MAX_NAMES:
        raise ValueError(f"{text!r} has more than {MAX_NAMES} names")
    if _TYPE_MARK in names:
        raise ValueError(f"{text!r}: {_TYPE_MARK} marks a time, binary or geometry; name its field")
    return tuple(names)


def write_path(path: FieldPath) -> str:
    """Return the path as `parse_path` reads it."""
    return ".".join(name.translate(_IN_NAMES) for name in path)


def tree_of(paths: Collection[FieldPath]) -> FieldTree:
    """Gather paths by their first names; naming a path twice changes nothing.

    Raises:
        ValueError: a path leads into a field that another one names.
    """
    tree: FieldTree = {}
    for path in paths:
        inner = tree
        for count, name in enumerate(path, start=1):
            inner = inner.setdefault(name, {})
            if path[:count] in paths and count < len(path):
                raise ValueError(f"{write_path(path)} is part of {write_path(path[:count])}")
    return tree
