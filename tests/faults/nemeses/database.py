"""What befalls RethinkDB."""

import random
from collections.abc import Callable
from typing import Any

from rethinkdb import errors as reql
from rethinkdb import r

from tests.faults.nemeses.nemesis import Kinds, hold, hold_until_noticed, let_it_work
from tests.faults.world import World

KINDS = Kinds()


@KINDS.nemesis("database", "real rethinkdb", weight=0.7)
def kill_database(world: World, chance: random.Random) -> int:
    """SIGKILL of the server, and a start with its data."""
    assert world.lane.real is not None
    world.lane.real.kill()
    hold(chance, 0.0, 0.5)
    world.lane.real.start()
    let_it_work(world, chance)
    return 1


@KINDS.nemesis("database", "real rethinkdb")
def freeze_database(world: World, chance: random.Random) -> int:
    """SIGSTOP and SIGCONT of the server."""
    assert world.lane.real is not None
    world.lane.real.freeze()
    hold_until_noticed(chance, 3.0, 35.0)
    world.lane.real.thaw()
    return 1


@KINDS.nemesis("database", "real rethinkdb", weight=1.5)
def reshard(world: World, chance: random.Random) -> int:
    """Another number of shards: every feed of the table is aborted."""
    shards = chance.choice((1, 2, 3))
    _on_a_table(world, chance, lambda table: table.reconfigure(shards=shards, replicas=1))
    hold(chance, 0.1, 1.0)
    return 1


@KINDS.nemesis("database", exits=(2,))
def drop_table(world: World, chance: random.Random) -> int:
    """Drop a table and make it again, with another id.

    A process that starts while the table is away ends: there is no such table.
    """
    name = chance.choice(world.setup.load.tables)
    with world.connect() as connection:
        try:
            r.db(world.name).table_drop(name).run(connection)
            hold(chance, 0.0, 0.5)
            world.create_table(connection, name)
        except reql.ReqlOpFailedError:
            pass  # the server has just come back: `heal` sees to it that the table is there
    return 1


@KINDS.nemesis("database", weight=0.3, exits=(2,))
def revoke_database_permission(world: World, chance: random.Random) -> int:
    """The replicator's user may read nothing for a while."""
    with world.connect() as connection:
        world.grant(connection, may_read=False)
        hold(chance, 0.2, 1.5)
        world.grant(connection, may_read=True)
    return 1


@KINDS.nemesis("database", "embedded rethinkdb", weight=3)
def overflow_feeds(world: World, chance: random.Random) -> int:
    """The server drops what waits in its feeds."""
    assert world.lane.embedded is not None
    world.lane.embedded.overflow_feeds()
    hold(chance, 0.1, 0.8)
    return 1


@KINDS.nemesis("database", "embedded rethinkdb", weight=2)
def abort_feeds(world: World, chance: random.Random) -> int:
    """The server ends its feeds, as a failover does."""
    assert world.lane.embedded is not None
    world.lane.embedded.abort_feeds()
    hold(chance, 0.1, 0.8)
    return 1


def _on_a_table(world: World, chance: random.Random, order: Callable[[Any], Any]) -> None:
    table = r.db(world.name).table(chance.choice(world.setup.load.tables))
    try:
        with world.connect() as connection:
            order(table).run(connection)
    except reql.ReqlOpFailedError:
        pass  # its table is away, or still being changed
