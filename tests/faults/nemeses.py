"""The nemeses: each breaks one thing in a run for a while and mends it again.

A nemesis says in which *place* it acts: of one place only one acts at a time, those of different
places overlap freely. It returns when what it broke is whole again, and says how many faults it
injected.
"""

import random
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rethinkdb import errors as reql
from rethinkdb import r

from tests.faults.world import World
from tests.support.proxy import TcpProxy

_BRIEF_SHARE = 0.85
_WORKING_SECONDS = 10.0
# More than RethinkDB keeps for a feed whose queue is 300 changes, and was doubled three times.
_BURST = 3000

Place = Literal["replicator", "broker", "queue", "amqp link", "database", "reql link", "outbox"]
Act = Callable[[World, random.Random], int]


@dataclass(frozen=True)
class Nemesis:
    """One kind of fault."""

    name: str
    place: Place
    act: Act
    needs: frozenset[str]
    weight: float
    exits: frozenset[int]
    """With which status the process may end by itself, for what a person has to mend."""


NEMESES: dict[str, Nemesis] = {}


def nemesis(
    place: Place, *needs: str, weight: float = 1.0, exits: tuple[int, ...] = ()
) -> Callable[[Act], Act]:
    """Register a nemesis under its function's name."""

    def register(act: Act) -> Act:
        name = act.__name__.replace("_", " ")
        NEMESES[name] = Nemesis(name, place, act, frozenset(needs), weight, frozenset(exits))
        return act

    return register


def _hold(chance: random.Random, least: float, most: float) -> None:
    time.sleep(chance.uniform(least, most))


def _hold_until_noticed(chance: random.Random, most: float, noticed: float) -> None:
    """Hold for a moment; now and then for so long that the other side must notice."""
    _hold(chance, 0.1, most if chance.random() < _BRIEF_SHARE else noticed)


def _let_it_work(world: World, chance: random.Random) -> None:
    """Half of the time wait until it works again, so that the next fault meets live feeds."""
    if chance.random() < 0.5:
        _hold(chance, 0.1, 1.5)
        return
    deadline = time.monotonic() + _WORKING_SECONDS
    while time.monotonic() < deadline and not world.replicator.is_ready():
        time.sleep(0.05)
    _hold(chance, 0.2, 0.8)


# The replicator itself.


@nemesis("replicator", weight=3)
def kill_replicator(world: World, chance: random.Random) -> int:
    """SIGKILL, and a start after a while, in which it is away."""
    world.replicator.kill()
    _hold(chance, 0.0, 0.6)
    world.replicator.start()
    _let_it_work(world, chance)
    return 1


@nemesis("replicator")
def terminate_replicator(world: World, chance: random.Random) -> int:
    """SIGTERM, as at every deployment; it must end with status 0."""
    status = world.replicator.terminate(60)
    # One that had not yet begun, since Python is still importing, just ends.
    is_too_early = status == -signal.SIGTERM and not world.replicator.has_begun
    assert status in (0, None) or is_too_early, f"SIGTERM ended with status {status}"
    _hold(chance, 0.0, 0.5)
    world.replicator.start()
    _hold(chance, 0.3, 1.5)
    return 1


@nemesis("replicator", weight=1.5)
def freeze_replicator(world: World, chance: random.Random) -> int:
    """SIGSTOP and SIGCONT: every clock but its own goes on."""
    world.replicator.signal(signal.SIGSTOP)
    _hold(chance, 0.1, 2.5)
    world.replicator.signal(signal.SIGCONT)
    return 1


@nemesis("replicator", "libfaketime", weight=1.5)
def jump_clock(world: World, chance: random.Random) -> int:
    """Let the wall clock jump by up to a day, forth or back."""
    world.shift_clock(chance.randrange(-86_400, 86_400))
    _hold(chance, 0.5, 1.5)
    return 1


# RabbitMQ.


@nemesis("broker", weight=0.3)
def kill_broker(world: World, chance: random.Random) -> int:
    """SIGKILL of the node, and a start with its data."""
    world.lane.rabbitmq.kill()
    _hold(chance, 0.0, 0.5)
    world.lane.rabbitmq.start()
    return 1


@nemesis("broker", weight=0.2)
def restart_broker(world: World, chance: random.Random) -> int:
    """Stop the node in order and start it."""
    world.lane.rabbitmq.stop()
    _hold(chance, 0.0, 0.5)
    world.lane.rabbitmq.start()
    return 1


@nemesis("broker", weight=1.5)
def pause_broker(world: World, chance: random.Random) -> int:
    """SIGSTOP and SIGCONT of the node: nothing answers."""
    world.lane.rabbitmq.pause()
    _hold_until_noticed(chance, 3.0, 15.0)
    world.lane.rabbitmq.resume()
    return 1


@nemesis("broker", weight=1.5)
def memory_alarm(world: World, chance: random.Random) -> int:
    """RabbitMQ blocks who publishes."""
    world.lane.erlang.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.0)")
    _hold(chance, 0.1, 2.5)
    world.lane.erlang.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
    return 1


@nemesis("broker", weight=1.5)
def disk_alarm(world: World, chance: random.Random) -> int:
    """The same because of its disk."""
    world.lane.erlang.eval('rabbit_disk_monitor:set_disk_free_limit("99999GB")')
    _hold(chance, 0.1, 2.5)
    world.lane.erlang.eval('rabbit_disk_monitor:set_disk_free_limit("1MB")')
    return 1


@nemesis("broker", weight=3)
def close_connections(world: World, chance: random.Random) -> int:
    """An operator closes every connection, a few times."""
    count = chance.randrange(1, 4)
    for _ in range(count):
        world.close_broker_connections()
        _hold(chance, 0.05, 0.8)
    return count


@nemesis("broker", weight=3)
def kill_channels(world: World, chance: random.Random) -> int:
    """The broker's processes of all channels crash: a channel error."""
    count = chance.randrange(1, 4)
    for _ in range(count):
        world.lane.erlang.eval("[exit(P, fault) || P <- rabbit_channel:list_local()]")
        _hold(chance, 0.05, 0.8)
    return count


@nemesis("broker", weight=0.5, exits=(2,))
def revoke_broker_permission(world: World, chance: random.Random) -> int:
    """The user may do nothing for a while, and has to connect again."""
    world.set_permission("^$")
    world.close_broker_connections()
    _hold(chance, 0.2, 1.5)
    world.set_permission(".*")
    return 1


@nemesis("broker", weight=1.5)
def delete_exchange(world: World, chance: random.Random) -> int:
    """The exchange goes, with its bindings; publishing closes the channel."""
    world.lane.erlang.eval(
        f'rabbit_exchange:delete(rabbit_misc:r(<<"{world.name}">>, exchange, <<"rethinkdb">>),'
        ' false, <<"faults">>)'
    )
    _hold(chance, 0.1, 1.5)
    world.recorder.heal()
    world.recorder.wait_until_attached()
    return 1


@nemesis("queue", weight=1.5)
def delete_queue(world: World, chance: random.Random) -> int:
    """No queue takes the messages: they are returned."""
    world.recorder.delete_queue()
    _hold(chance, 0.1, 1.5)
    world.recorder.heal()
    world.recorder.wait_until_attached()
    return 1


@nemesis("queue", weight=1.5)
def fill_queue(world: World, chance: random.Random) -> int:
    """Nobody consumes, the queue is full and refuses: nacks."""
    world.recorder.pause()
    _hold(chance, 1.0, 4.0)
    world.recorder.heal()
    world.recorder.wait_until_attached()
    return 1


# The network, the same faults on either side.


def _cut(proxy: TcpProxy, chance: random.Random) -> int:
    count = chance.randrange(2, 6)
    for _ in range(count):
        proxy.cut()
        _hold(chance, 0.02, 0.8)
    return count


def _cut_in_a_message(proxy: TcpProxy, chance: random.Random) -> int:
    count = chance.randrange(2, 5)
    for _ in range(count):
        proxy.cut_after(chance.randrange(1, 20_000), chance.choice(("to_server", "to_client")))
        _hold(chance, 0.1, 0.8)
    proxy.heal()
    return count


def _deaf(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.go_deaf(chance.choice(("to_server", "to_client", "both")))
    _hold_until_noticed(chance, 3.0, 35.0)
    proxy.heal()
    return 1


def _slow(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.slow(chance.randrange(10_000, 200_000), chance.choice(("to_server", "to_client", "both")))
    _hold(chance, 0.5, 2.5)
    proxy.heal()
    return 1


def _refuse(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.refuse()
    proxy.cut()
    _hold(chance, 0.2, 2.0)
    proxy.heal()
    return 1


def _half_open(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.abandon()
    _hold(chance, 0.5, 2.0)
    return 1


@nemesis("amqp link", weight=3)
def cut_amqp(world: World, chance: random.Random) -> int:
    """Reset every connection to the broker."""
    return _cut(world.amqp_proxy, chance)


@nemesis("amqp link", weight=3)
def cut_amqp_in_a_message(world: World, chance: random.Random) -> int:
    """Close connections after any byte."""
    return _cut_in_a_message(world.amqp_proxy, chance)


@nemesis("amqp link", weight=1.5)
def deaf_amqp(world: World, chance: random.Random) -> int:
    """Deliver nothing in one direction or both, and keep what is sent."""
    return _deaf(world.amqp_proxy, chance)


@nemesis("amqp link")
def slow_amqp(world: World, chance: random.Random) -> int:
    """A link of a modem."""
    return _slow(world.amqp_proxy, chance)


@nemesis("amqp link")
def refuse_amqp(world: World, chance: random.Random) -> int:
    """No connection, and no new one."""
    return _refuse(world.amqp_proxy, chance)


@nemesis("amqp link", weight=0.5)
def half_open_amqp(world: World, chance: random.Random) -> int:
    """The broker goes on to see a connection that the replicator has lost."""
    return _half_open(world.amqp_proxy, chance)


@nemesis("reql link", weight=3)
def cut_reql(world: World, chance: random.Random) -> int:
    """Reset every connection to RethinkDB."""
    return _cut(world.reql_proxy, chance)


@nemesis("reql link", weight=3)
def cut_reql_in_a_message(world: World, chance: random.Random) -> int:
    """Close connections after any byte."""
    return _cut_in_a_message(world.reql_proxy, chance)


@nemesis("reql link", weight=1.5)
def deaf_reql(world: World, chance: random.Random) -> int:
    """Deliver nothing in one direction or both, and keep what is sent."""
    return _deaf(world.reql_proxy, chance)


@nemesis("reql link")
def slow_reql(world: World, chance: random.Random) -> int:
    """A link of a modem; with a small changefeed queue RethinkDB drops changes."""
    return _slow(world.reql_proxy, chance)


@nemesis("reql link")
def refuse_reql(world: World, chance: random.Random) -> int:
    """No connection, and no new one."""
    return _refuse(world.reql_proxy, chance)


@nemesis("reql link")
def half_open_reql(world: World, chance: random.Random) -> int:
    """RethinkDB goes on to see a connection that the replicator has lost."""
    return _half_open(world.reql_proxy, chance)


# RethinkDB.


@nemesis("database", "real rethinkdb", weight=0.7)
def kill_database(world: World, chance: random.Random) -> int:
    """SIGKILL of the server, and a start with its data."""
    assert world.lane.real is not None
    world.lane.real.kill()
    _hold(chance, 0.0, 0.5)
    world.lane.real.start()
    _let_it_work(world, chance)
    return 1


@nemesis("database", "real rethinkdb")
def freeze_database(world: World, chance: random.Random) -> int:
    """SIGSTOP and SIGCONT of the server."""
    assert world.lane.real is not None
    world.lane.real.freeze()
    _hold_until_noticed(chance, 3.0, 35.0)
    world.lane.real.thaw()
    return 1


@nemesis("database", "real rethinkdb", weight=1.5)
def reshard(world: World, chance: random.Random) -> int:
    """Another number of shards: every feed of the table is aborted."""
    shards = chance.choice((1, 2, 3))
    _on_a_table(world, chance, lambda table: table.reconfigure(shards=shards, replicas=1))
    _hold(chance, 0.1, 1.0)
    return 1


@nemesis("database", exits=(2,))
def drop_table(world: World, chance: random.Random) -> int:
    """Drop a table and make it again, with another id.

    A process that starts while the table is away ends: there is no such table.
    """
    name = chance.choice(world.setup.load.tables)
    with world.connect() as connection:
        try:
            r.db(world.name).table_drop(name).run(connection)
            _hold(chance, 0.0, 0.5)
            world.create_table(connection, name)
        except reql.ReqlOpFailedError:
            pass  # the server has just come back: `heal` sees to it that the table is there
    return 1


@nemesis("database", weight=0.3, exits=(2,))
def revoke_database_permission(world: World, chance: random.Random) -> int:
    """The replicator's user may read nothing for a while."""
    with world.connect() as connection:
        world.grant(connection, may_read=False)
        _hold(chance, 0.2, 1.5)
        world.grant(connection, may_read=True)
    return 1


@nemesis("database", "embedded rethinkdb", weight=3)
def overflow_feeds(world: World, chance: random.Random) -> int:
    """The server drops what waits in its feeds."""
    assert world.lane.embedded is not None
    world.lane.embedded.overflow_feeds()
    _hold(chance, 0.1, 0.8)
    return 1


@nemesis("database", "embedded rethinkdb", weight=2)
def abort_feeds(world: World, chance: random.Random) -> int:
    """The server ends its feeds, as a failover does."""
    assert world.lane.embedded is not None
    world.lane.embedded.abort_feeds()
    _hold(chance, 0.1, 0.8)
    return 1


@nemesis("reql link", weight=2)
def overflow_live(world: World, chance: random.Random) -> int:
    """Nobody reads the feed while more is written than RethinkDB keeps for it."""
    world.reql_proxy.go_deaf("to_server")
    _burst(world, chance)
    world.reql_proxy.heal()
    _hold(chance, 0.1, 0.5)
    return 1


@nemesis("reql link", weight=2)
def overflow_in_a_snapshot(world: World, chance: random.Random) -> int:
    """The same while a snapshot is read over a slow link."""
    world.reql_proxy.slow(30_000, "to_client")
    world.reql_proxy.cut()
    _hold(chance, 0.3, 0.8)
    _burst(world, chance)
    world.reql_proxy.heal()
    return 1


def _burst(world: World, chance: random.Random) -> None:
    table = chance.choice(world.setup.load.tables)
    written = 0
    try:
        with world.connect() as connection:
            while written < _BURST:
                written += world.writers.burst(connection, chance, table)
    except (reql.ReqlError, OSError):
        pass  # the server is down as well: another nemesis has it


def _on_a_table(world: World, chance: random.Random, order: Callable[[Any], Any]) -> None:
    table = r.db(world.name).table(chance.choice(world.setup.load.tables))
    try:
        with world.connect() as connection:
            order(table).run(connection)
    except reql.ReqlOpFailedError:
        pass  # its table is away, or still being changed


# The outbox.


@nemesis("outbox", weight=1.5)
def lock_outbox(world: World, chance: random.Random) -> int:
    """Another program holds SQLite's write lock."""
    connection = sqlite3.connect(world.replicator.process.outbox, isolation_level=None, timeout=5)
    try:
        connection.execute("BEGIN IMMEDIATE")
        _hold(chance, 0.2, 2.5)
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return 0  # it is being made, or was just removed
    finally:
        connection.close()
    return 1


@nemesis("outbox", "a small volume", weight=2)
def fill_disk(world: World, chance: random.Random) -> int:
    """Not a byte is left on the outbox's volume."""
    filler = world.directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                _fill(file, size)
        _hold(chance, 0.5, 2.5)
    finally:
        filler.unlink()
    return 1


def _fill(file: Any, size: int) -> None:
    try:
        while True:
            file.write(b"\0" * size)
    except OSError:
        return  # as is wanted: it is full


@nemesis("outbox", weight=0.0, exits=(1, 2))
def remove_outbox(world: World, chance: random.Random) -> int:
    """Its file goes while the service runs: that is noticed, and a new one begins."""
    for suffix in ("", "-wal", "-shm"):
        world.replicator.process.outbox.with_name("outbox.db" + suffix).unlink(missing_ok=True)
    world.outboxes_lost += 1
    _hold(chance, 2.5, 4.0)
    return 1


@nemesis("outbox", weight=0.0, exits=(1, 2))
def corrupt_outbox(world: World, chance: random.Random) -> int:
    """Its pages become noise; an operator removes the file, and a new one begins."""
    path = world.replicator.process.outbox
    with path.open("r+b") as file:
        file.seek(0)
        file.write(chance.randbytes(max(8192, path.stat().st_size // 2)))
    _hold(chance, 1.0, 2.5)
    world.replicator.kill()
    for suffix in ("", "-wal", "-shm"):
        path.with_name("outbox.db" + suffix).unlink(missing_ok=True)
    world.outboxes_lost += 1
    world.replicator.start()
    _hold(chance, 1.0, 2.0)
    return 1
