"""Changes that RethinkDB drops, since nobody reads them soon enough."""

import random

from rethinkdb import errors as reql

from tests.faults.nemeses.nemesis import Kinds, hold
from tests.faults.world import World

# More than RethinkDB keeps for a feed whose queue is 300 changes, and was doubled three times.
_BURST = 3000

KINDS = Kinds()


@KINDS.nemesis("reql link", weight=2)
def overflow_live(world: World, chance: random.Random) -> int:
    """Nobody reads the feed while more is written than RethinkDB keeps for it."""
    world.reql_proxy.go_deaf("to_server")
    _burst(world, chance)
    world.reql_proxy.heal()
    hold(chance, 0.1, 0.5)
    return 1


@KINDS.nemesis("reql link", weight=2)
def overflow_in_a_snapshot(world: World, chance: random.Random) -> int:
    """The same while a snapshot is read over a slow link."""
    world.reql_proxy.slow(30_000, "to_client")
    world.reql_proxy.cut()
    hold(chance, 0.3, 0.8)
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
