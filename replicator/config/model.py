"""The settings as frozen models: names, types, defaults and what contradicts what.

Only the models know the settings: the loader, the error messages and the test of the documentation
take everything from them. A setting's docstring is what users read of it.
"""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from replicator.config.section import (
    ContradictionError,
    Count,
    Section,
    ShortName,
    require_different,
)
from replicator.config.servers import RabbitMQ, RethinkDB
from replicator.config.values import (
    HostPort,
    check_table_name,
    parse_delete_guard,
    parse_duration,
    parse_listen,
    parse_size,
    text,
)
from replicator.domain.field_path import FieldPath, parse_path, tree_of
from replicator.domain.guard import DeleteLimit
from replicator.domain.model import TableName, of_table
from replicator.domain.routing import MAX_BYTES, RoutingKey, shared_keys
from replicator.errors import SettingsInvalid
from replicator.log import Format, Level

FieldPaths = tuple[Annotated[FieldPath, BeforeValidator(parse_path), BeforeValidator(text)], ...]


def _outbox_url(url: str) -> str:
    if not re.match(r"[A-Za-z0-9+]+://", url):
        raise ValueError("must be an SQLAlchemy URL such as sqlite:///replicator.db")
    return url


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Outbox(Section):
    """Where entries are kept until RabbitMQ confirms them."""

    url: Annotated[str, AfterValidator(_outbox_url)] = Field(
        default="sqlite:///replicator.db", repr=False
    )
    """SQLAlchemy URL: `sqlite:///relative.db` or `sqlite:////absolute/path.db`"""
    max_entries: Count = 1_000_000
    """max entries, pending and parked; there the feeds pause until there is room"""
    max_bytes: Annotated[int, BeforeValidator(parse_size)] = Field(
        default="4GiB", validate_default=True
    )
    """max bytes of all entries' bodies; there the feeds pause until there is room"""


class HTTP(Section):
    """Probes, metrics and the status page."""

    listen: Annotated[HostPort | None, BeforeValidator(parse_listen)] = Field(
        default="127.0.0.1:9464", validate_default=True
    )
    """`HOST:PORT` of the page, the status, the metrics and the probes; `off` for none"""


class Log(Section):
    """Logs, on standard error."""

    format: Annotated[Format, BeforeValidator(_lower)] = "auto"
    """`console`, `json`, or `auto`: `console` on a terminal, else `json`"""
    level: Annotated[Level, BeforeValidator(_lower)] = "info"
    """`debug`, `info`, `warning` or `error`"""


class Table(Section):
    """One replicated table."""

    name: Annotated[str, AfterValidator(check_table_name)]
    """`database.table`, or `database.*` for all its tables, including later ones"""
    initial: Literal["publish", "baseline"] = "publish"
    """what the table's first snapshot does: `publish` each document as a create, or only record
    it (`baseline`)"""
    routing_key: Annotated[RoutingKey, BeforeValidator(RoutingKey), BeforeValidator(text)] = Field(
        default="{table}.{op}", validate_default=True
    )
    """may use `{db}`, `{table}` and `{op}`; max 255 bytes when filled in"""
    exchange: ShortName | None = None
    """this table's exchange, instead of `rabbitmq.exchange`; declared the same way, but
    `rabbitmq.queues` are not bound to it"""
    envelope: Literal["change", "cloudevents", "debezium"] = "change"
    """form of the message body: `change`, `cloudevents` or `debezium`"""
    exclude_fields: FieldPaths = ()
    """fields that RethinkDB leaves out before it sends a document; `card.number` is in `card`"""
    include_fields: FieldPaths = ()
    """the only fields that RethinkDB sends, with the primary key; not with `exclude_fields`"""
    delete_guard: Annotated[DeleteLimit | None, BeforeValidator(parse_delete_guard)] = Field(
        default="20%", validate_default=True
    )
    """a resync that would delete more holds its deletes back until an operator accepts them: a
    share (and more than 1,000 documents), a number of documents, or `off`"""
    keep_documents: bool = False
    """keep a copy of each document in the outbox, so that messages of a resync have `old_val`"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.exclude_fields and self.include_fields:
            raise ContradictionError(
                "include_fields", "contradicts exclude_fields: give only one of the two"
            )
        for key in ("exclude_fields", "include_fields"):
            try:
                tree_of(getattr(self, key))
            except ValueError as err:
                raise ContradictionError(key, str(err)) from err
        longest = self.routing_key.longest(*self.full_name)
        if longest > MAX_BYTES:
            raise ContradictionError(
                "routing_key",
                f"makes keys of up to {longest} bytes for this table: AMQP allows {MAX_BYTES}",
            )
        return self

    @property
    def full_name(self) -> TableName:
        """The database and the table."""
        database, _, table = self.name.partition(".")
        return TableName(database, table)


class Settings(Section):
    """All settings of one replicator."""

    rethinkdb: RethinkDB = RethinkDB()
    rabbitmq: RabbitMQ = RabbitMQ()
    outbox: Outbox = Outbox()
    http: HTTP = HTTP()
    log: Log = Log()
    drain_timeout: Annotated[timedelta, BeforeValidator(parse_duration)] = Field(
        default="20s", validate_default=True
    )
    """how long a stop (SIGTERM) waits for confirms"""
    tables: tuple[Table, ...] = ()
    """the tables to replicate; at least one"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_different((table.name for table in self.tables), "tables")
        return self

    @property
    def databases(self) -> list[str]:
        """The databases whose tables are all replicated."""
        names = (table.full_name for table in self.tables)
        return [name.database for name in names if name.is_pattern]

    @property
    def exchanges(self) -> list[str]:
        """All exchanges that messages may go to, ``rabbitmq.exchange`` first."""
        others = (table.exchange for table in self.tables)
        return list(dict.fromkeys([self.rabbitmq.exchange, *filter(None, others)]))

    @property
    def exchange_by_table(self) -> dict[TableName, str]:
        """The exchange of each entry of `tables`.

        An entry that names none has `rabbitmq.exchange`, even if its whole database has another.
        """
        return {each.full_name: each.exchange or self.rabbitmq.exchange for each in self.tables}

    @property
    def shared_keys(self) -> list[tuple[str, list[TableName]]]:
        """The routing keys that several entries of `tables` make at one exchange."""
        keys = {each.full_name: each.routing_key for each in self.tables}
        exchanges = self.exchange_by_table
        return shared_keys({name: (exchanges[name], key) for name, key in keys.items()})

    def require_tables(self) -> None:
        """Raise SettingsInvalid unless a table is named."""
        if not self.tables:
            raise SettingsInvalid("no table to replicate is named", hint="use --table DB.TABLE")

    def table(self, name: TableName) -> Table | None:
        """Return the options of a table: of its own entry, else of its whole database."""
        return of_table({each.full_name: each for each in self.tables}, name)
