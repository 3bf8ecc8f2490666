"""What a nemesis is, and for how long it may act."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.faults.world import World

_BRIEF_SHARE = 0.85
_WORKING_SECONDS = 10.0

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


class Kinds(dict[str, Nemesis]):
    """The nemeses of a module, by name, as they stand in it."""

    def nemesis(
        self, place: Place, *needs: str, weight: float = 1.0, exits: tuple[int, ...] = ()
    ) -> Callable[[Act], Act]:
        """Register a nemesis under its function's name."""

        def register(act: Act) -> Act:
            name = act.__name__.replace("_", " ")
            self[name] = Nemesis(name, place, act, frozenset(needs), weight, frozenset(exits))
            return act

        return register


def hold(chance: random.Random, minimum: float, maximum: float) -> None:
    time.sleep(chance.uniform(minimum, maximum))


def hold_until_noticed(chance: random.Random, maximum: float, noticed: float) -> None:
    """Hold for a moment; now and then for so long that the other side must notice."""
    hold(chance, 0.1, maximum if chance.random() < _BRIEF_SHARE else noticed)


def let_it_work(world: World, chance: random.Random) -> None:
    """Half of the time wait until it works again, so that the next fault meets live feeds."""
    if chance.random() < 0.5:
        hold(chance, 0.1, 1.5)
        return
    deadline = time.monotonic() + _WORKING_SECONDS
    while time.monotonic() < deadline and not world.replicator.is_ready():
        time.sleep(0.05)
    hold(chance, 0.2, 0.8)
