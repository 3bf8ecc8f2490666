"""What the demo does, in order, and the check at its end that the copy equals the table."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
from rethinkdb import errors as reql
from rethinkdb import r

from replicator.config import RethinkDBUrl
from replicator.errors import SourceUnavailable
from replicator.operators.listing import GapRow, list_gaps
from replicator.outbox.opening import open_database
from replicator_sandbox.demo.listener import Listener
from replicator_sandbox.demo.narrator import Narrator
from replicator_sandbox.demo.replica import Replica
from replicator_sandbox.demo.servers import (
    Broker,
    DemoFailed,
    broker_of,
    embedded_rethinkdb,
    given_urls,
)
from replicator_sandbox.demo.writer import Writer, connect

_TABLE: Final = "orders"
_DOCUMENTS_AT_START: Final = 1000
_PATIENCE_SECONDS: Final = 60.0


class Pace(NamedTuple):
    """How long the writer writes, and how many documents a second."""

    seconds: float
    rate: int


@dataclass(frozen=True)
class Stage:
    """Everything that takes part."""

    narrator: Narrator
    broker: Broker
    source: RethinkDBUrl
    database: str
    writer: Writer
    listener: Listener
    replica: Replica

    def check(self) -> None:
        """Check that everything still runs; raises `DemoFailed`."""
        self.replica.check()
        if self.writer.error is not None:
            raise DemoFailed(f"the writer failed: {self.writer.error}") from self.writer.error

    def figures(self) -> str:
        """Return the progress of everything, in one line."""
        pending = self.replica.pending()
        waiting = "replicator down" if pending is None else f"{pending:,} wait in the outbox"
        return (
            f"{self.writer.written.total():,} written, {self.listener.received:,} received, "
            f"{waiting}"
        )

    def pass_time(self, seconds: float, label: str) -> None:
        """Let everything work for a while."""
        until = time.monotonic() + seconds
        self.narrator.watch(
            self.figures, lambda: time.monotonic() >= until, label=label, check=self.check
        )

    def wait_for(self, condition: Callable[[], bool], label: str) -> None:
        """Wait for something that must happen; raises `DemoFailed` if it does not."""
        until = time.monotonic() + _PATIENCE_SECONDS

        def check() -> None:
            self.check()
            if time.monotonic() > until:
                raise DemoFailed(f"{label}: not within {_PATIENCE_SECONDS:.0f} s")

        self.narrator.watch(self.figures, condition, label=label, check=check)


def run_demo(pace: Pace, *, as_json: bool) -> None:
    """Play the demo; leaves no process running and no files.

    Raises:
        DemoFailed: the copy differs, or something did not do what it should.
        ServerMissing: RabbitMQ is not installed and RABBITMQ_URL is not set.
    """
    narrator = Narrator(to_stderr=as_json)
    given = given_urls(os.environ.get("RETHINKDB_URL"), os.environ.get("RABBITMQ_URL"))
    with _ending_in_order(), contextlib.ExitStack() as stack:
        narrator.step("start the servers")
        source = given.rethinkdb or stack.enter_context(embedded_rethinkdb())
        narrator.tell(
            f"RethinkDB: {source}" + ("" if given.rethinkdb else " (embedded, in memory)")
        )
        broker = stack.enter_context(broker_of(given.rabbitmq))
        narrator.tell(
            f"RabbitMQ:  {given.rabbitmq}"
            if given.rabbitmq
            else "RabbitMQ:  a private node of the real server, in a temporary directory"
        )
        stage = _set_up(stack, narrator, source, broker, pace, is_shared=given.rabbitmq is not None)
        _play(stage, pace)
        figures = _compare(stage)
    if as_json:
        sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that what it started is stopped."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _set_up(
    stack: contextlib.ExitStack,
    narrator: Narrator,
    source: RethinkDBUrl,
    broker: Broker,
    pace: Pace,
    *,
    is_shared: bool,
) -> Stage:
    """Make the table, the queue and everything that works on them."""
    name = f"replicator_demo_{secrets.token_hex(4)}"
    exchange = name if is_shared else "rethinkdb"
    stack.enter_context(_own_database(source, name))
    listener = Listener(broker.url, exchange, name)
    listener.start()
    if is_shared:
        stack.callback(listener.remove)
    stack.callback(listener.stop)
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="replicator-demo-"))
    replica = Replica(
        Path(directory),
        table=f"{name}.{_TABLE}",
        rethinkdb=source.reveal(),
        rabbitmq=broker.url_to_cut,
        exchange=exchange,
    )
    stack.callback(replica.stop)
    writer = Writer(source, name, _TABLE, rate=pace.rate)
    stack.callback(writer.stop)
    return Stage(narrator, broker, source, name, writer, listener, replica)


@contextlib.contextmanager
def _own_database(source: RethinkDBUrl, name: str) -> Iterator[None]:
    try:
        with connect(source) as connection:
            r.db_create(name).run(connection)
            r.db(name).table_create(_TABLE).run(connection)
            r.db(name).table(_TABLE).wait().run(connection)
    except reql.ReqlError as err:
        raise SourceUnavailable(
            f"RethinkDB at {source} cannot be used: {str(err).splitlines()[0]}",
            hint="check RETHINKDB_URL, or unset it to use the embedded one",
        ) from err
    try:
        yield
    finally:
        with contextlib.suppress(reql.ReqlError, OSError), connect(source) as connection:
            r.db_drop(name).run(connection)


def _play(stage: Stage, pace: Pace) -> None:
    narrator, writer, replica = stage.narrator, stage.writer, stage.replica
    narrator.step(f"the table gets {_DOCUMENTS_AT_START:,} documents, then the replicator starts")
    writer.fill(_DOCUMENTS_AT_START)
    replica.start()
    stage.wait_for(
        lambda: replica.is_ready() and len(stage.listener.copy()) == _DOCUMENTS_AT_START,
        "first snapshot",
    )
    narrator.good("the listener has a copy of what was there before")

    narrator.step(f"a writer creates, updates and deletes, {pace.rate:,} documents a second")
    writer.start()
    stage.pass_time(pace.seconds * 0.2, "running")
    _lose_broker(stage, pace)
    _lose_replicator(stage, pace)
    narrator.step("a little more, then the writer stops")
    stage.pass_time(pace.seconds * 0.1, "running")
    writer.stop()
    stage.wait_for(replica.is_drained, "draining")


def _lose_broker(stage: Stage, pace: Pace) -> None:
    narrator, broker = stage.narrator, stage.broker
    if broker.how_it_is_cut is None:
        narrator.tell("skipped: RABBITMQ_URL has TLS, so its connection cannot be cut here")
        return
    narrator.step(f"the broker is lost while the writer goes on: {broker.how_it_is_cut}")
    broker.cut()
    stage.pass_time(pace.seconds * 0.15, "without broker")
    narrator.good("what cannot be published is kept in the outbox")
    narrator.step("the broker comes back")
    # Wait even after Ctrl-C: a server that is just starting cannot be stopped well.
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(broker.bring_back)
        narrator.watch(stage.figures, coming.done, label="starting")
        coming.result()
    # Not until the outbox is empty: the writer goes on, so something always waits.
    stage.wait_for(
        lambda: stage.replica.is_ready() and (stage.replica.pending() or 0) < pace.rate,
        "catching up",
    )
    narrator.good("the outbox was published")


def _lose_replicator(stage: Stage, pace: Pace) -> None:
    narrator, replica = stage.narrator, stage.replica
    narrator.step("kill -9 of the replicator while the writer goes on, deletes included")
    before = stage.writer.written.copy()
    replica.kill()
    stage.pass_time(pace.seconds * 0.25, "without replicator")
    missed = stage.writer.written - before
    narrator.tell(
        "missed by everyone: "
        + ", ".join(f"{missed[what]:,} {what}" for what in ("created", "updated", "deleted"))
    )
    narrator.step("the replicator starts again and compares the table with what it published")
    replica.start()
    stage.wait_for(replica.is_ready, "comparing")
    for gap in _gaps(stage):
        narrator.good(
            f"gap of {((gap.closed_at or gap.opened_at) - gap.opened_at) / 1e6:.1f} s recorded and "
            f"repaired: {gap.created:,} created, {gap.updated:,} updated, {gap.deleted:,} deleted"
        )


def _gaps(stage: Stage) -> list[GapRow]:
    with open_database(stage.replica.outbox_url).reading() as connection:
        return list_gaps(connection, table=None, limit=1000)


def _compare(stage: Stage) -> dict[str, Any]:
    """Compare the copy with the table and show the figures.

    Raises:
        DemoFailed: they differ.
    """
    narrator, listener = stage.narrator, stage.listener
    narrator.step("compare the listener's copy with the table")
    with connect(stage.source) as connection:
        rows = r.db(stage.database).table(_TABLE).run(connection)
        table = {row["id"]: row for row in rows}
    until = time.monotonic() + _PATIENCE_SECONDS
    narrator.watch(
        stage.figures,
        lambda: listener.copy() == table or time.monotonic() > until,
        label="listening",
        check=stage.check,
    )
    copy = listener.copy()
    stage.replica.stop()
    gaps = _gaps(stage)
    figures: dict[str, Any] = {
        "equal": copy == table,
        "documents": len(table),
        "written": {what: stage.writer.written[what] for what in ("created", "updated", "deleted")},
        "received": listener.received,
        "resent": listener.resent,
        "repaired": {op: listener.repaired[op] for op in ("create", "update", "delete")},
        "gaps": len(gaps),
    }
    _tell_figures(narrator, figures, [gap.cause for gap in gaps])
    if not figures["equal"]:
        differing = [key for key in table.keys() | copy.keys() if table.get(key) != copy.get(key)]
        raise DemoFailed(
            f"the copy differs from the table in {len(differing)} documents, for example "
            f"{differing[0]}: this must not happen"
        )
    narrator.good(f"the copy equals the table: {len(table):,} documents, none missing, none left")
    return figures


def _tell_figures(narrator: Narrator, figures: dict[str, Any], causes: list[str]) -> None:
    written, repaired = figures["written"], figures["repaired"]
    repairs = ", ".join(f"{count:,} {op}s" for op, count in repaired.items())
    narrator.table(
        "What happened",
        [
            (
                "written",
                sum(written.values()),
                ", ".join(f"{count:,} {what}" for what, count in written.items()),
            ),
            ("messages received", figures["received"], "by the listener, from a durable queue"),
            ("of them resent", figures["resent"], "with a message id seen before: dropped"),
            (
                "repaired by resync",
                sum(repaired.values()),
                f"{repairs} that no feed had shown",
            ),
            ("gaps recorded", figures["gaps"], ", ".join(causes) or "none"),
        ],
    )
