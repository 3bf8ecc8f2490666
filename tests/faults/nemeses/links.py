"""What befalls the network: the same faults on the way to either server."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.nemeses.nemesis import Act, Kinds, Nemesis, Place, hold, hold_until_noticed
from tests.faults.world import World
from tests.support.proxy import TcpProxy

Break = Callable[[TcpProxy, random.Random], int]


class Fault(NamedTuple):
    """One kind of fault of a link; the name has a place for which link it is."""

    name: str
    act: Break
    weight_amqp: float
    weight_reql: float


def _cut(proxy: TcpProxy, chance: random.Random) -> int:
    count = chance.randrange(2, 6)
    for _ in range(count):
        proxy.cut()
        hold(chance, 0.02, 0.8)
    return count


def _cut_in_a_message(proxy: TcpProxy, chance: random.Random) -> int:
    count = chance.randrange(2, 5)
    for _ in range(count):
        proxy.cut_after(chance.randrange(1, 20_000), chance.choice(("to_server", "to_client")))
        hold(chance, 0.1, 0.8)
    proxy.heal()
    return count


def _deaf(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.go_deaf(chance.choice(("to_server", "to_client", "both")))
    hold_until_noticed(chance, 3.0, 35.0)
    proxy.heal()
    return 1


def _slow(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.slow(chance.randrange(10_000, 200_000), chance.choice(("to_server", "to_client", "both")))
    hold(chance, 0.5, 2.5)
    proxy.heal()
    return 1


def _refuse(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.refuse()
    proxy.cut()
    hold(chance, 0.2, 2.0)
    proxy.heal()
    return 1


def _half_open(proxy: TcpProxy, chance: random.Random) -> int:
    proxy.abandon()
    hold(chance, 0.5, 2.0)
    return 1


_FAULTS = (
    Fault("cut {}", _cut, 3, 3),
    Fault("cut {} in a message", _cut_in_a_message, 3, 3),
    Fault("deaf {}", _deaf, 1.5, 1.5),
    Fault("slow {}", _slow, 1, 1),
    Fault("refuse {}", _refuse, 1, 1),
    # The broker keeps the fence of a connection that it still sees: each costs its heartbeats.
    Fault("half open {}", _half_open, 0.5, 1),
)


def _amqp(world: World) -> TcpProxy:
    return world.amqp_proxy


def _reql(world: World) -> TcpProxy:
    return world.reql_proxy


def _through(proxy_of: Callable[[World], TcpProxy], fault: Fault) -> Act:
    return lambda world, chance: fault.act(proxy_of(world), chance)


def _nemeses(link: str, place: Place, proxy_of: Callable[[World], TcpProxy]) -> Kinds:
    kinds = Kinds()
    for fault in _FAULTS:
        name = fault.name.format(link)
        weight = fault.weight_amqp if link == "amqp" else fault.weight_reql
        act = _through(proxy_of, fault)
        kinds[name] = Nemesis(name, place, act, frozenset(), weight, frozenset())
    return kinds


KINDS = Kinds(_nemeses("amqp", "amqp link", _amqp) | _nemeses("reql", "reql link", _reql))
