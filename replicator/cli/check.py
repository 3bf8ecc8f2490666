"""``replicator check``: tests settings, servers and rights before a start; changes nothing."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import typer
from rich.text import Text

from replicator.cli import options, output
from replicator.cli.live import live_facts
from replicator.composition import rabbitmq_broker, rethinkdb_server
from replicator.config import Settings
from replicator.domain.model import Op, TableName
from replicator.domain.routing import is_matched
from replicator.domain.words import size
from replicator.errors import PermanentError, ReplicatorError, SettingsInvalid
from replicator.outbox.opening import open_database
from replicator.publisher import check as publisher
from replicator.source import check as source
from replicator.source.changefeed import FieldRules

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
        "rethinkdb__url": rethinkdb,
        "rabbitmq__url": rabbitmq,
        "rabbitmq__exchange": exchange,
        "outbox__url": outbox,
        "http__listen": http,
    }
    found: list[Finding] = []
    for finding in _findings(config, flags):
        found.append(finding)
        if as_json:
            output.print_line(finding._asdict())
        else:
            _print(finding)
    failed = [finding for finding in found if not finding.ok]
    if failed:
        is_permanent = any(finding.permanent for finding in failed)
        raise typer.Exit(_PERMANENT if is_permanent else _UNREACHABLE)


def _print(finding: Finding) -> None:
    mark = ("ok    ", "green") if finding.ok else ("wrong ", "bold red")
    hint = f" — {finding.hint}" if finding.hint else ""
    output.say(Text.assemble(mark, (f"{finding.part}: ", "bold"), finding.message + hint))
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
        settings = options.settings_from(config, **flags)
    except SettingsInvalid as err:
        for line in str(err).splitlines():
            yield Finding("settings", ok=False, message=line, hint=err.hint, permanent=True)
        return
    if settings.tables:
        names = ", ".join(table.name for table in settings.tables)
        yield Finding("settings", ok=True, message=f"complete; tables: {names}")
    else:
        missing = SettingsInvalid("no table to replicate is named", hint="use --table DB.TABLE")
        yield _failure("settings", missing)
    found: list[TableName] = []
    yield from _source(settings, found)
    yield from _broker(settings, found)
    yield _attempt("outbox", _outbox_words, settings.outbox.url)


def _source(settings: Settings, found: list[TableName]) -> Iterator[Finding]:
    """Test RethinkDB; add the tables that would be replicated to ``found``."""
    found += [table.full_name for table in settings.tables if not table.full_name.is_pattern]
    try:
        with source.connected(rethinkdb_server(settings)) as rethinkdb:
            user, url = settings.rethinkdb.url.user, settings.rethinkdb.url
            yield _attempt(
                "rethinkdb",
                lambda: f"server {rethinkdb.server()!r} answers user {user!r} at {url}",
            )
            for database in settings.databases:
                try:
                    tables = rethinkdb.tables(database)
                except ReplicatorError as err:
                    yield _failure(f"tables {database}.*", err)
                    continue
                found += [name for name in tables if name not in found]
                yield Finding(f"tables {database}.*", ok=True, message=_tables_words(tables))
            for name in found:
                yield _attempt(f"table {name}", _table_words, rethinkdb, name, settings)
    except ReplicatorError as err:
        yield _failure("rethinkdb", err)


def _tables_words(names: Sequence[TableName]) -> str:
    if not names:
        return "none yet; each is replicated as soon as it is created"
    return f"{len(names)} now: {', '.join(name.table for name in names)}"


def _table_words(rethinkdb: source.SourceCheck, name: TableName, settings: Settings) -> str:
    table = settings.table(name)
    fields = FieldRules()
    if table is not None:
        fields = FieldRules(table.include_fields or None, table.exclude_fields or None)
    return f"can be read; its primary key is {rethinkdb.table(name, fields)!r}"


def _broker(settings: Settings, found: Sequence[TableName]) -> Iterator[Finding]:
    target = settings.rabbitmq
    broker = rabbitmq_broker(settings)
    keys = _routing_keys(settings, found)
    try:
        with publisher.connected(broker) as rabbitmq:
            yield Finding("rabbitmq", ok=True, message=f"{rabbitmq.where} answers at {target.url}")
            for exchange in settings.exchanges:
                wanted = keys[exchange] or [_ANY_KEY]
                yield _attempt(f"exchange {exchange}", rabbitmq.exchange, exchange, wanted)
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
            exchange = table.exchange or settings.rabbitmq.exchange
            keys[exchange] += [
                table.routing_key.format(name.database, name.table, op.value) for op in Op
            ]
    return {exchange: list(dict.fromkeys(of_it)) for exchange, of_it in keys.items()}


def _bindings(settings: Settings, keys: Mapping[str, Sequence[str]]) -> Finding:
    """Report which routing keys no queue of the settings takes, and what cannot be known.

    AMQP cannot list bindings, and the broker looks at them only when it delivers a message (a
    transaction that is rolled back returns nothing). So this compares the settings, and adds what
    RabbitMQ has returned to a running service.
    """
    said, is_compared_whole = _compared(settings, keys)
    live = live_facts(settings.http.listen)
    lost: Mapping[str, int] = live["broker"]["unroutable"] if live else {}
    if lost:
        tables = ", ".join(f"{table} {count:,}" for table, count in sorted(lost.items()))
        said += f"; the service at {settings.http.listen} had unroutable messages: {tables}"
    elif live:
        said += f"; the service at {settings.http.listen} had no unroutable message"
    hint = None if is_compared_whole and not lost else _HINT_OF_BINDINGS
    return Finding("bindings", ok=True, message=said, hint=hint)


def _compared(settings: Settings, keys: Mapping[str, Sequence[str]]) -> tuple[str, bool]:
    """Compare with ``rabbitmq.queues``; returns the words, and whether every key is taken."""
    queues = settings.rabbitmq.queues
    if not queues:
        return f"rabbitmq.queues declares no queue; {_UNSEEN}", False
    main = settings.rabbitmq.exchange
    bindings = [binding for queue in queues for binding in queue.bindings]
    matches = _MATCHES.get(settings.rabbitmq.exchange_type)
    if matches is None:
        return f"a {settings.rabbitmq.exchange_type} exchange is not compared; {_UNSEEN}", False
    lost = [
        key if exchange == main else f"{key} (exchange {exchange})"
        for exchange, of_it in keys.items()
        for key in of_it
        if exchange != main or not any(matches(binding, key) for binding in bindings)
    ]
    if not lost:
        return f"rabbitmq.queues takes every routing key; {_UNSEEN}", True
    return (
        f"no queue of rabbitmq.queues takes {', '.join(lost)}, which may be intended; {_UNSEEN}",
        False,
    )


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
