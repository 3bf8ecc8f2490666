"""What befalls the replicator's process."""

import random
import signal

from tests.faults.nemeses.nemesis import Kinds, hold, let_it_work
from tests.faults.supervised import is_for_a_full_disk
from tests.faults.world import World

KINDS = Kinds()


@KINDS.nemesis("replicator", weight=3)
def kill_replicator(world: World, chance: random.Random) -> int:
    """SIGKILL, and a start after a while, in which it is away."""
    world.replicator.kill()
    hold(chance, 0.0, 0.6)
    world.replicator.start()
    let_it_work(world, chance)
    return 1


@KINDS.nemesis("replicator")
def terminate_replicator(world: World, chance: random.Random) -> int:
    """SIGTERM, as at every deployment; it must end with status 0, if it can write its outbox."""
    status = world.replicator.terminate(60)
    # One that had not yet begun, since Python is still importing, just ends.
    is_too_early = status == -signal.SIGTERM and not world.replicator.has_begun
    is_explained = is_too_early or is_for_a_full_disk(status, world.replicator.log_tail)
    assert status in (0, None) or is_explained, f"SIGTERM ended with status {status}"
    hold(chance, 0.0, 0.5)
    world.replicator.start()
    hold(chance, 0.3, 1.5)
    return 1


@KINDS.nemesis("replicator", weight=1.5)
def freeze_replicator(world: World, chance: random.Random) -> int:
    """SIGSTOP and SIGCONT: every clock but its own goes on."""
    world.replicator.signal(signal.SIGSTOP)
    hold(chance, 0.1, 2.5)
    world.replicator.signal(signal.SIGCONT)
    return 1


@KINDS.nemesis("replicator", "libfaketime", weight=1.5)
def jump_clock(world: World, chance: random.Random) -> int:
    """Let the wall clock jump by up to a day, forth or back."""
    world.shift_clock(chance.randrange(-86_400, 86_400))
    hold(chance, 0.5, 1.5)
    return 1
