"""Where messages go: the exchange and the routing key of each table and op."""

from collections.abc import Mapping
from typing import Final

from replicator.domain.model import Entry, Op, TableName, of_table
from replicator.domain.routing import MAX_BYTES, RoutingKey
from replicator.publisher.broker import Publication
from replicator.publisher.frames import address

_DEFAULT_ROUTING_KEY: Final = RoutingKey("{table}.{op}")


class Addresses:
    """Makes each address once."""

    def __init__(
        self, publication: Publication, exchange: str, names: Mapping[int, TableName]
    ) -> None:
        """Take the settings; ``exchange`` is that of tables that have none of their own."""
        self._publication = publication
        self._exchange = exchange
        self._names = names
        self._made: dict[tuple[int, Op], bytes] = {}

    def of(self, entry: Entry) -> bytes:
        """Return where an entry goes; empty when AMQP cannot carry its routing key."""
        made = self._made.get((entry.feed_id, entry.op))
        if made is None:
            exchange, key = self.exchange_and_key(entry)
            made = address(exchange, key) if len(key.encode()) <= MAX_BYTES else b""
            self._made[entry.feed_id, entry.op] = made
        return made

    def exchange_and_key(self, entry: Entry) -> tuple[str, str]:
        """Return the exchange and the routing key of an entry."""
        name = self._names[entry.feed_id]
        return self._exchange_of(name), self._key(name, entry.op)

    def probes(self) -> list[tuple[str, str]]:
        """Return an exchange and a routing key for each way that messages will go.

        The key matters, since permissions can depend on it. Of a whole database no table is
        known yet that a key could be made of.
        """
        found: dict[str, str] = {}
        for name in self._publication.routing_keys:
            key = self._key(name, Op.UPDATE)
            if not name.is_pattern and len(key.encode()) <= MAX_BYTES:
                found.setdefault(self._exchange_of(name), key)
        return list(found.items())

    def _exchange_of(self, name: TableName) -> str:
        return of_table(self._publication.exchanges, name) or self._exchange

    def _key(self, name: TableName, op: Op) -> str:
        template = of_table(self._publication.routing_keys, name) or _DEFAULT_ROUTING_KEY
        return template.format(name.database, name.table, op.value)
