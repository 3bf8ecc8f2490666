"""What befalls RabbitMQ, and the queue that is bound to the exchange."""

import random

from tests.faults.nemeses.nemesis import Kinds, hold, hold_until_noticed
from tests.faults.world import World

KINDS = Kinds()


@KINDS.nemesis("broker", weight=0.3)
def kill_broker(world: World, chance: random.Random) -> int:
    """SIGKILL of the node, and a start with its data."""
    world.lane.rabbitmq.kill()
    hold(chance, 0.0, 0.5)
    world.lane.rabbitmq.start()
    return 1


@KINDS.nemesis("broker", weight=0.2)
def restart_broker(world: World, chance: random.Random) -> int:
    """Stop the node in order and start it."""
    world.lane.rabbitmq.stop()
    hold(chance, 0.0, 0.5)
    world.lane.rabbitmq.start()
    return 1


@KINDS.nemesis("broker", weight=1.5)
def pause_broker(world: World, chance: random.Random) -> int:
    """SIGSTOP and SIGCONT of the node: nothing answers."""
    world.lane.rabbitmq.pause()
    hold_until_noticed(chance, 3.0, 15.0)
    world.lane.rabbitmq.resume()
    return 1


@KINDS.nemesis("broker", weight=1.5)
def memory_alarm(world: World, chance: random.Random) -> int:
    """RabbitMQ blocks who publishes."""
    world.lane.erlang.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.0)")
    hold(chance, 0.1, 2.5)
    world.lane.erlang.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
    return 1


@KINDS.nemesis("broker", weight=1.5)
def disk_alarm(world: World, chance: random.Random) -> int:
    """The same because of its disk."""
    world.lane.erlang.eval('rabbit_disk_monitor:set_disk_free_limit("99999GB")')
    hold(chance, 0.1, 2.5)
    world.lane.erlang.eval('rabbit_disk_monitor:set_disk_free_limit("1MB")')
    return 1


@KINDS.nemesis("broker", weight=3)
def close_connections(world: World, chance: random.Random) -> int:
    """An operator closes every connection, a few times."""
    count = chance.randrange(1, 4)
    for _ in range(count):
        world.close_broker_connections()
        hold(chance, 0.05, 0.8)
    return count


@KINDS.nemesis("broker", weight=3)
def kill_channels(world: World, chance: random.Random) -> int:
    """The broker's processes of all channels crash: a channel error."""
    count = chance.randrange(1, 4)
    for _ in range(count):
        world.lane.erlang.eval("[exit(P, fault) || P <- rabbit_channel:list_local()]")
        hold(chance, 0.05, 0.8)
    return count


@KINDS.nemesis("broker", weight=0.5, exits=(2,))
def revoke_broker_permission(world: World, chance: random.Random) -> int:
    """The user may do nothing for a while, and has to connect again."""
    world.set_permission("^$")
    world.close_broker_connections()
    hold(chance, 0.2, 1.5)
    world.set_permission(".*")
    return 1


@KINDS.nemesis("broker", weight=1.5)
def delete_exchange(world: World, chance: random.Random) -> int:
    """The exchange goes, with its bindings; publishing closes the channel."""
    world.lane.erlang.eval(
        f'rabbit_exchange:delete(rabbit_misc:r(<<"{world.name}">>, exchange, <<"rethinkdb">>),'
        ' false, <<"faults">>)'
    )
    hold(chance, 0.1, 1.5)
    world.recorder.heal()
    world.recorder.wait_until_attached()
    return 1


@KINDS.nemesis("queue", weight=1.5)
def delete_queue(world: World, chance: random.Random) -> int:
    """No queue takes the messages: they are returned."""
    world.recorder.delete_queue()
    hold(chance, 0.1, 1.5)
    world.recorder.heal()
    world.recorder.wait_until_attached()
    return 1


@KINDS.nemesis("queue", weight=1.5)
def fill_queue(world: World, chance: random.Random) -> int:
    """Nobody consumes, the queue is full and refuses: nacks, now and then until that is noticed."""
    world.recorder.pause()
    hold_until_noticed(chance, 4.0, 20.0)
    world.recorder.heal()
    world.recorder.wait_until_attached()
    return 1
