"""``replicator check``: the preflight; touches nothing."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer
from rich.text import Text

from replicator.cli import options, output
from replicator.config import Settings
from replicator.domain.model import Op
from replicator.errors import PermanentError, ReplicatorError, SettingsInvalid
from replicator.outbox.check import OutboxFacts, check_outbox, wanted_schema
from replicator.outbox.privacy import REMEDY
from replicator.publisher import check as publisher
from replicator.publisher.broker import Queue
from replicator.service import rabbitmq_broker, rethinkdb_server
from replicator.source import check as source
from replicator.source.changefeed import FieldRules

_UNREACHABLE = 1
_PERMANENT = 2


class Finding(NamedTuple):
    """One line of the preflight."""

    part: str
    ok: bool
    message: str
    hint: str | None = None
    permanent: bool = False


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("check", epilog="Example: replicator check --config replicator.toml")(check)


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
    """Look whether `replicator run` would work, part by part; changes nothing anywhere.

    Exit status: 0 all is well, 1 something cannot be reached, 2 something has to be changed.
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
    output.console().print(
        Text.assemble(mark, (f"{finding.part}: ", "bold"), finding.message + hint), soft_wrap=True
    )
    sys.stdout.flush()


def _failure(part: str, err: ReplicatorError) -> Finding:
    is_permanent = isinstance(err, PermanentError)
    return Finding(part, ok=False, message=str(err), hint=err.hint, permanent=is_permanent)


def _attempt(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part, ok=True, message=look())
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
        yield _failure(
            "settings", SettingsInvalid("no table is named to replicate", hint="--table DB.TABLE")
        )
    yield from _source(settings)
    yield from _broker(settings)
    yield _attempt("outbox", lambda: _outbox_words(check_outbox(settings.outbox.url)))


def _source(settings: Settings) -> Iterator[Finding]:
    try:
        with source.connected(rethinkdb_server(settings)) as rethinkdb:
            user, url = settings.rethinkdb.user, settings.rethinkdb.safe_url
            yield _attempt(
                "rethinkdb",
                lambda: f"server {rethinkdb.server()!r} answers user {user!r} at {url}",
            )
            for table in settings.tables:
                fields = FieldRules(table.include_fields or None, table.exclude_fields or None)
                yield _attempt(
                    f"table {table.name}",
                    lambda table=table, fields=fields: (
                        "can be read; its primary key is "  # type: ignore[misc]
                        + repr(rethinkdb.table(table.full_name, fields))
                    ),
                )
    except ReplicatorError as err:
        yield _failure("rethinkdb", err)


def _broker(settings: Settings) -> Iterator[Finding]:
    target = settings.rabbitmq
    broker = rabbitmq_broker(settings)
    try:
        with publisher.connected(broker) as rabbitmq:
            yield Finding(
                "rabbitmq", ok=True, message=f"{rabbitmq.where} answers at {target.safe_url}"
            )
            yield _attempt(
                f"exchange {target.exchange}",
                lambda: rabbitmq.exchange(_routing_key(settings)),
            )
            yield _attempt("fence", rabbitmq.fence)
            for queue in broker.queues:
                yield _attempt(f"queue {queue.name}", _queue_look(rabbitmq, queue))
    except ReplicatorError as err:
        yield _failure("rabbitmq", err)


def _queue_look(rabbitmq: publisher.BrokerCheck, queue: Queue) -> Callable[[], str]:
    return lambda: rabbitmq.queue(queue)


def _routing_key(settings: Settings) -> str:
    """Return a key that the service would publish with: permissions can depend on it."""
    for table in settings.tables:
        return table.routing_key.format(table.database, table.table, Op.UPDATE.value)
    return "replicator.check"


def _outbox_words(facts: OutboxFacts) -> str:
    room = f"{output.human_bytes(facts.free_bytes)} free"
    if facts.exposures:
        room += f"; it is open to others: {', '.join(facts.exposures)}: {REMEDY}"
    if not facts.exists:
        return f"{facts.path} does not exist yet: `replicator run` creates it; {room}"
    words = f"{facts.path} can be written"
    if facts.is_current:
        words += f", schema {facts.schema}"
    else:
        words += (
            f", schema {facts.schema or 'none'}: `replicator run` brings it to {wanted_schema()}"
        )
    holder = facts.holder
    words += f", in use by process {holder}" if holder is not None else ", not in use"
    return f"{words}; {room}"
