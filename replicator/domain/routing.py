"""Routing keys: a template such as ``{table}.{op}``, made into the key of one message.

Pure text. A template is checked once, when it is built, so that no change can meet a broken one.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.domain.model import Op, TableName

FIELDS = ("db", "table", "op")

MAX_BYTES = 255
"""AMQP 0-9-1 carries a routing key as a short string: at most 255 bytes (its section 4.2.5.3)."""

HINT_OF_SHARED_KEYS = "set tables[].routing_key to {db}.{table}.{op} to tell them apart"


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """A template that may use ``{db}``, ``{table}`` and ``{op}``; ``{{`` and ``}}`` are braces.

    Raises:
        ValueError: The template has an unknown field, a format or a brace without its pair.
    """

    template: str
    _parts: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Split the template into literal text and field names; refuse what cannot be filled."""
        try:
            parsed = tuple(string.Formatter().parse(self.template))
        except ValueError as err:
            raise ValueError(f"{err} (a brace itself is written {{{{ or }}}})") from err
        for _, name, spec, conversion in parsed:
            if name is None:
                continue
            if name not in FIELDS:
                raise ValueError(f"{{{name}}} is unknown: it may use {{db}}, {{table}} and {{op}}")
            if spec or conversion:
                raise ValueError(f"{{{name}}} takes no format and no conversion")
        # A frozen dataclass has no other way to keep what it derives from its fields.
        object.__setattr__(self, "_parts", tuple((text, name) for text, name, _, _ in parsed))

    def __str__(self) -> str:
        """Return the template as the user wrote it."""
        return self.template

    def format(self, db: str, table: str, op: str) -> str:
        """Return the routing key of one message."""
        values = {"db": db, "table": table, "op": op}
        return "".join(text if name is None else text + values[name] for text, name in self._parts)

    def longest(self, db: str, table: str) -> int:
        """Return the bytes of the longest key that a message of this table can have."""
        return max(len(self.format(db, table, op).encode()) for op in Op)


def shared_keys(
    tables: Mapping[TableName, tuple[str, RoutingKey]],
) -> list[tuple[str, list[TableName]]]:
    """Return the routing keys that several entries of the settings make, with those entries.

    Of all ops, that of an update. A whole database counts for the tables that it has or may have
    some day: for one of the same name as another entry's, or, with ``*`` in the key, for any.

    Args:
        tables: the exchange and the template of each entry.
    """
    names: dict[tuple[str, str], list[TableName]] = {}
    for name, (exchange, template) in tables.items():
        names.setdefault((exchange, template.format(*name, Op.UPDATE)), []).append(name)
    for pattern, (exchange, template) in tables.items():
        for other in filter(lambda each: pattern.is_pattern and not each.is_pattern, tables):
            alike = TableName(pattern.database, other.table)
            found = names.get((exchange, template.format(*alike, Op.UPDATE)))
            if alike not in tables and found is not None and pattern not in found:
                found.append(pattern)
    return [(key, entries) for (_, key), entries in names.items() if len(entries) > 1]


def is_matched(binding: str, routing_key: str) -> bool:
    """Return whether a topic exchange's binding matches a routing key.

    A word is what stands between dots; ``*`` is one word, ``#`` any number of words, including 0.
    """
    words = binding.split(".")

    def skipping(places: set[int]) -> set[int]:
        reached = set(places)
        for place in sorted(places):
            while place < len(words) and words[place] == "#":
                place += 1  # noqa: PLW2901 -- "#" may stand for nothing
                reached.add(place)
        return reached

    # The places in the binding that match the words of the key so far; each turn takes one word.
    places = skipping({0})
    for word in routing_key.split("."):
        after = {place for place in places if place < len(words) and words[place] == "#"}
        after |= {place + 1 for place in places if words[place : place + 1] in (["*"], [word])}
        places = skipping(after)
    return len(words) in places
