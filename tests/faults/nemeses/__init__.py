"""The nemeses: each breaks one thing in a run for a while and mends it again.

A nemesis says in which *place* it acts: of one place only one acts at a time, those of different
places overlap freely. It returns when what it broke is whole again, and says how many faults it
injected.
"""

from tests.faults.nemeses import broker, database, links, outbox, overflow, replicator
from tests.faults.nemeses.nemesis import Nemesis

# Order matters: a seed draws by it, and would stand for another run.
NEMESES: dict[str, Nemesis] = {
    **replicator.KINDS,
    **broker.KINDS,
    **links.KINDS,
    **database.KINDS,
    **overflow.KINDS,
    **outbox.KINDS,
}

__all__ = ["NEMESES", "Nemesis"]
