"""What befalls the outbox: its lock, its volume, its file."""

import random
import sqlite3
from typing import Any

from tests.faults.nemeses.nemesis import Kinds, hold, hold_until_noticed
from tests.faults.world import World

KINDS = Kinds()


@KINDS.nemesis("outbox", weight=1.5)
def lock_outbox(world: World, chance: random.Random) -> int:
    """Another program holds SQLite's write lock, now and then for longer than SQLite waits."""
    connection = sqlite3.connect(world.replicator.process.outbox, isolation_level=None, timeout=5)
    try:
        connection.execute("BEGIN IMMEDIATE")
        hold_until_noticed(chance, 2.5, 8.0)
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return 0  # it is being made, or was just removed
    finally:
        connection.close()
    return 1


@KINDS.nemesis("outbox", "a small volume", weight=2)
def fill_disk(world: World, chance: random.Random) -> int:
    """Not a byte is left on the outbox's volume."""
    filler = world.directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                _fill(file, size)
        hold(chance, 0.5, 2.5)
    finally:
        filler.unlink()
    return 1


def _fill(file: Any, size: int) -> None:
    try:
        while True:
            file.write(b"\0" * size)
    except OSError:
        return  # as is wanted: it is full


@KINDS.nemesis("outbox", weight=0.0, exits=(1, 2))
def remove_outbox(world: World, chance: random.Random) -> int:
    """Its file goes while the service runs: that is noticed, and a new one begins."""
    for suffix in ("", "-wal", "-shm"):
        world.replicator.process.outbox.with_name("outbox.db" + suffix).unlink(missing_ok=True)
    world.outboxes_lost += 1
    hold(chance, 2.5, 4.0)
    return 1


@KINDS.nemesis("outbox", weight=0.0, exits=(1, 2))
def corrupt_outbox(world: World, chance: random.Random) -> int:
    """Its pages become noise; an operator removes the file, and a new one begins."""
    path = world.replicator.process.outbox
    with path.open("r+b") as file:
        file.seek(0)
        file.write(chance.randbytes(max(8192, path.stat().st_size // 2)))
    hold(chance, 1.0, 2.5)
    world.replicator.kill()
    for suffix in ("", "-wal", "-shm"):
        path.with_name("outbox.db" + suffix).unlink(missing_ok=True)
    world.outboxes_lost += 1
    world.replicator.start()
    hold(chance, 1.0, 2.0)
    return 1
