"""``replicator check``: tests settings, servers and rights before a start; changes nothing."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import typer

from replicator.cli import options, output
from replicator.cli.live import live_facts
from replicator.composition import rabbitmq_broker, rethinkdb_server
from replicator.config import HostPort, Settings
from replicator.domain.model import Op, TableName
from replicator.domain.routing import HINT_OF_SHARED_KEYS, is_matched
from replicator.domain.words import size
from replicator.errors import PermanentError, ReplicatorError, SettingsInvalid
from replicator.operators.listing import outbox_id
from replicator.outbox.opening import open_database
from replicator.publisher import check as publisher
from replicator.source import check as source
from replicator.source.projection import FieldRules
from replicator.web.server import listening

_UNREACHABLE = 1
_PERMANENT = 2
_UNSEEN: Final = (
    "this compares the settings only: AMQP cannot list bindings or the queues of others"
)
_HINT_OF_BINDINGS: Final = (
    "rabbitmqctl list_bindings shows all bindings; rabbitmq.on_unroutable = hold keeps messages "
    "until their key has a queue"
)
_ANY_KEY: Final = "replicator.check"  # topic permissions depend on a key, so one is needed
_MATCHES: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "topic": is_matched,
    "direct": lambda binding, key: binding == key,
    "fanout": lambda _binding, _key: True,
}
"""By the type of an exchange: returns whether a binding takes a routing key."""


class Finding(NamedTuple):
    """One line of the preflight."""

    part: str
    ok: bool
    message: str
    hint: str | None = None
    permanent: bool = False


def check(  # noqa: PLR0913 -- an argument for each option
    *,
    table: options.Tables = None,
    rethinkdb: options.RethinkDBUrl = None,
    rabbitmq: options.RabbitMQUrl = None,
    exchange: options.Exchange = None,
    outbox: options.OutboxUrl = None,
    http: options.HttpListen = None,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Test whether `replicator run` would work; changes nothing.

    Prints a line for each part: ok, or what to do. Exit status: 0 all is well, 1 something cannot
    be reached, 2 something has to be changed.
    """
    flags = {
        "tables": table,
        "rethinkdb.url": rethinkdb,
        "rabbitmq.url": rabbitmq,
        "rabbitmq.exchange": exchange,
        "outbox.url": outbox,
        "http.listen": http,
    }
    statuses = {0}
    for finding in _findings(config, flags):
        if not finding.ok:
            statuses.add(_PERMANENT if finding.permanent else _UNREACHABLE)
        if as_json:
            output.print_line(finding._asdict())
        else:
            _print(finding)
    raise typer.Exit(max(statuses))


def _print(finding: Finding) -> None:
    mark = ("ok    ", "green") if finding.ok else ("wrong ", "bold red")
    hint = f" — {finding.hint}" if finding.hint else ""
    output.say(output.words(mark, (f"{finding.part}: ", "bold"), finding.message + hint))
    sys.stdout.flush()


def _failure(part: str, err: ReplicatorError) -> Finding:
    is_permanent = isinstance(err, PermanentError)
    return Finding(part, ok=False, message=str(err), hint=err.hint, permanent=is_permanent)


def _attempt(part: str, look: Callable[..., str], *at: Any) -> Finding:
    try:
        return Finding(part, ok=True, message=look(*at))
    except ReplicatorError as err:
        return _failure(part, err)


def _findings(config: Path | None, flags: dict[str, Any]) -> Iterator[Finding]:
    try:
        settings = options.settings_from(config, flags)
    except SettingsInvalid as err:
        for line in str(err).splitlines():
            yield Finding("settings", ok=False, message=line, hint=err.hint, permanent=True)
        return
    yield _attempt("settings", _settings_words, settings)
    for key, names in settings.shared_keys:
        said = f"{', '.join(map(str, names))} can share the key {key}, which may be intended"
        yield Finding("routing keys", ok=True, message=said, hint=HINT_OF_SHARED_KEYS)
    found = [table.full_name for table in settings.tables if not table.full_name.is_pattern]
    yield from _source(settings, found)
    yield from _broker(settings, found)
    yield _attempt("outbox", _outbox_words, settings.outbox.url)
    yield _attempt("http", _http_words, settings)


def _settings_words(settings: Settings) -> str:
    settings.require_tables()
    return f"complete; tables: {', '.join(table.name for table in settings.tables)}"


def _source(settings: Settings, found: list[TableName]) -> Iterator[Finding]:
    """Test each host of RethinkDB; add the tables of whole databases to ``found``.

    The tables are looked at where a host answers first, and recognised at the others.
    """
    url = settings.rethinkdb.url
    server = rethinkdb_server(settings)
    tables: dict[TableName, str] | None = None

    def words(rethinkdb: source.SourceCheck, host: HostPort) -> str:
        at = url if len(url.hosts) == 1 else host
        said = f"{rethinkdb.server()} answers user {url.user!r} at {at}"
        rethinkdb.require_same(tables or {})
        return said

    for host in url.hosts:
        part = "rethinkdb" if len(url.hosts) == 1 else f"rethinkdb {host}"
        try:
            with source.connected(server._replace(hosts=[host])) as rethinkdb:
                yield _attempt(part, words, rethinkdb, host)
                if tables is None:
                    tables = {}
                    yield from _tables(settings, rethinkdb, found, tables)
        except ReplicatorError as err:
            yield _failure(part, err)


def _tables(
    settings: Settings,
    rethinkdb: source.SourceCheck,
    found: list[TableName],
    ids: dict[TableName, str],
) -> Iterator[Finding]:
    """Look at each table; keep the ids of those that can be read."""

    def tables_words(database: str) -> str:
        names = rethinkdb.tables(database)
        found.extend(name for name in names if name not in found)
        if not names:
            return "none yet; each is replicated as soon as it is created"
        return f"{len(names)} now: {', '.join(name.table for name in names)}"

    def table_words(name: TableName) -> str:
        fields = FieldRules()
        if (table := settings.table(name)) is not None:
            fields = FieldRules(table.include_fields, table.exclude_fields)
        facts = rethinkdb.table(name, fields)
        ids[name] = facts.id
        return f"can be read; its primary key is {facts.primary_key!r}"

    for database in settings.databases:
        yield _attempt(f"tables {database}.*", tables_words, database)
    for name in found:
        yield _attempt(f"table {name}", table_words, name)


def _broker(settings: Settings, found: Sequence[TableName]) -> Iterator[Finding]:
    broker = rabbitmq_broker(settings)
    keys = _routing_keys(settings, found)
    try:
        with publisher.connected(broker) as rabbitmq:
            yield Finding(
                "rabbitmq", ok=True, message=f"{rabbitmq.where} answers at {settings.rabbitmq.url}"
            )
            for exchange, of_it in keys.items():
                yield _attempt(
                    f"exchange {exchange}", rabbitmq.exchange, exchange, of_it or [_ANY_KEY]
                )
            yield _attempt("fence", rabbitmq.fence)
            for queue in broker.queues:
                yield _attempt(f"queue {queue.name}", rabbitmq.queue, queue)
    except ReplicatorError as err:
        yield _failure("rabbitmq", err)
        return
    yield _bindings(settings, keys)


def _routing_keys(settings: Settings, found: Sequence[TableName]) -> dict[str, list[str]]:
    """Return the routing keys that the service would use now, by exchange."""
    keys: dict[str, list[str]] = {exchange: [] for exchange in settings.exchanges}
    for name in found:
        if (table := settings.table(name)) is not None:
            of_it = keys[table.exchange or settings.rabbitmq.exchange]
            made = (table.routing_key.format(*name, op) for op in Op)
            of_it += [key for key in dict.fromkeys(made) if key not in of_it]
    return keys


def _bindings(settings: Settings, keys: Mapping[str, Sequence[str]]) -> Finding:
    """Report which routing keys no queue of the settings takes, and what cannot be known.

    AMQP cannot list bindings, and the broker looks at them only when it delivers a message (a
    transaction that is rolled back returns nothing). So this compares the settings, and adds what
    RabbitMQ has returned to a running service.
    """
    said, is_all_taken = _compared(settings, keys)
    said += f"; {_UNSEEN}"
    live = live_facts(settings.http.listen)
    lost: Mapping[str, int] = live["broker"]["unroutable"] if live else {}
    if live:
        tables = ", ".join(f"{table} {count:,}" for table, count in sorted(lost.items()))
        had = f"unroutable messages: {tables}" if lost else "no unroutable message"
        said += f"; the service at {settings.http.listen} had {had}"
    hint = None if is_all_taken and not lost else _HINT_OF_BINDINGS
    return Finding("bindings", ok=True, message=said, hint=hint)


def _compared(settings: Settings, keys: Mapping[str, Sequence[str]]) -> tuple[str, bool]:
    """Compare with ``rabbitmq.queues``; returns the words, and whether every key is taken."""
    rabbitmq = settings.rabbitmq
    bindings = [binding for queue in rabbitmq.queues for binding in queue.bindings]
    if not bindings:
        return "rabbitmq.queues declares no queue", False
    matches = _MATCHES.get(rabbitmq.exchange_type)
    if matches is None:
        return f"a {rabbitmq.exchange_type} exchange is not compared", False
    lost = [
        key if exchange == rabbitmq.exchange else f"{key} (exchange {exchange})"
        for exchange, of_it in keys.items()
        for key in of_it
        if exchange != rabbitmq.exchange or not any(matches(each, key) for each in bindings)
    ]
    if not lost:
        return "rabbitmq.queues takes every routing key", True
    return f"no queue of rabbitmq.queues takes {', '.join(lost)}, which may be intended", False


def _outbox_words(url: str) -> str:
    database = open_database(url)
    found = database.check()
    room = f"{size(found.free_bytes)} free"
    if found.exposure is not None:
        exposed, remedy = ", ".join(found.exposure.found), found.exposure.remedy
        room += f"; other users have access: {exposed}: {remedy}"
    if not found.exists:
        return f"{database.place} does not exist yet; `replicator run` creates it; {room}"
    schema = f"schema {found.schema or 'none'}"
    if found.schema != found.wanted_schema:
        schema += f": `replicator run` migrates it to {found.wanted_schema}"
    use = "not in use" if found.user is None else f"in use by process {found.user}"
    return f"{database.place} can be written, {schema}, {use}; {room}"


def _http_words(settings: Settings) -> str:
    """Listen for a moment, as the service does all the time."""
    listen = settings.http.listen
    if listen is None:
        return "off"
    try:
        listening(*listen).close()
    except SettingsInvalid:
        if not _is_served(settings.outbox.url, listen):
            raise
        return f"{listen} is in use by the service of this outbox"
    return f"{listen} can be used"


def _is_served(url: str, listen: HostPort) -> bool:
    """Return whether the service of this outbox answers at an address."""
    live = live_facts(listen)
    try:
        with open_database(url).reading() as connection:
            return live is not None and bool(live["outbox"]["id"] == outbox_id(connection))
    except ReplicatorError:
        return False  # there is no such outbox yet
