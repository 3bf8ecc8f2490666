"""Makes what the parts need from the settings (servers, messages, tables), and their threads."""

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from replicator.config import Settings, Table
from replicator.domain.hosts import InTurn
from replicator.domain.items import TableSettings
from replicator.domain.model import TableName
from replicator.errors import ReplicatorError
from replicator.log import get_logger
from replicator.publisher.broker import Broker, DeclaredQueue, Publication
from replicator.source.connection import Server


def rethinkdb_server(settings: Settings) -> Server:
    """Return how to reach RethinkDB, from the settings."""
    source = settings.rethinkdb
    return Server(InTurn(source.url.hosts), source.url.user, source.password, source.tls_ca_file)


def table_settings(name: TableName, table: Table) -> TableSettings:
    """Return what the store must know of a table with these options."""
    named = {"include": table.include_fields, "exclude": table.exclude_fields}
    # A name alone as version 0.1.0 wrote it, so that an upgrade compares nothing as changed.
    fields = {
        key: [path if len(path) > 1 else path[0] for path in sorted(paths)]
        for key, paths in named.items()
        if paths
    }
    return TableSettings(
        name,
        # A stable text of the fields that the feed shows, over which the digests are made.
        msgspec.json.encode(fields).decode(),
        keep_documents=table.keep_documents,
        is_baseline=table.initial == "baseline",
        envelope=table.envelope,
        delete_limit=table.delete_guard,
    )


def rabbitmq_broker(settings: Settings) -> Broker:
    """Return how to reach RabbitMQ and what must be there, from the settings."""
    target = settings.rabbitmq
    return Broker(
        hosts=InTurn(target.url.hosts),
        user=target.user,
        password=target.password or "",
        virtual_host=target.url.virtual_host,
        exchange=target.exchange,
        is_tls=target.url.tls,
        tls_ca_file=target.tls_ca_file,
        tls_cert_file=target.tls_cert_file,
        tls_key_file=target.tls_key_file,
        exchange_type=target.exchange_type,
        is_exchange_durable=target.exchange_durable,
        queues=[
            DeclaredQueue(
                queue.name,
                queue.bindings,
                queue.type,
                queue.arguments,
                is_type_given="type" in queue.model_fields_set,
            )
            for queue in target.queues
        ],
        exchanges=settings.exchanges[1:],
        heartbeat_seconds=int(target.heartbeat.total_seconds()),
    )


def publication(settings: Settings) -> Publication:
    """Return how messages look, and what becomes of unroutable ones, from the settings."""
    return Publication(
        is_persistent=settings.rabbitmq.persistent,
        has_full_headers=settings.rabbitmq.headers == "full",
        window=settings.rabbitmq.window,
        on_unroutable=settings.rabbitmq.on_unroutable,
        routing_keys={table.full_name: table.routing_key for table in settings.tables},
        exchanges=settings.exchange_by_table,
    )


class Worker:
    """A thread of the service; remembers how it ended and says so."""

    def __init__(self, name: str, run: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Name it; `start` starts it."""
        self.name = name
        self.error: Exception | None = None
        self._run = run
        self._on_end = on_end
        self.thread: Final = threading.Thread(target=self._main, name=name, daemon=True)

    def _main(self) -> None:
        try:
            self._run()
        except Exception as err:  # noqa: BLE001 -- the loop's boundary: the supervisor decides
            self.error = err
            # The service raises the error, and the command reports it. A defect is logged here
            # too, with its trace at debug level.
            if not isinstance(err, ReplicatorError):
                get_logger("service").exception("a part ended by a defect", part=self.name)
        finally:
            self._on_end()
