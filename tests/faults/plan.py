"""What a seed decides: which nemeses, on what load, with which settings."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.faults.nemeses import NEMESES, Nemesis
from tests.faults.workload import Load
from tests.faults.world import Setup

_MIXED_SHARE = 0.5
_OVERFLOWS = ("overflow live", "overflow in a snapshot")


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    nemeses: Sequence[Nemesis]
    setup: Setup
    faults: int
    max_seconds: float
    is_restart_checked: bool

    @property
    def name(self) -> str:
        return self.nemeses[0].name if len(self.nemeses) == 1 else "mixed"


def possible(abilities: Collection[str]) -> list[Nemesis]:
    """Return the nemeses that can act with these abilities."""
    return [each for each in NEMESES.values() if each.needs <= set(abilities)]


def left_out(abilities: Collection[str]) -> dict[str, list[str]]:
    """Return the nemeses that cannot act, and what they lack."""
    return {
        each.name: sorted(each.needs - set(abilities))
        for each in NEMESES.values()
        if not each.needs <= set(abilities)
    }


def make_plan(seed: int, abilities: Collection[str], only: str | None = None) -> Plan:
    """Decide a run: the same seed and abilities always give the same."""
    chance = random.Random(seed)
    choices = possible(abilities)
    if only is not None:
        chosen = [NEMESES[only]]
    elif chance.random() < _MIXED_SHARE:
        drawn = [each for each in choices if each.weight > 0]
        count = chance.randrange(3, 7)
        chosen = _sample(chance, drawn, count)
    else:
        # In turn, so that each is met equally often whatever the number of runs.
        chosen = [choices[seed % len(choices)]]
    return Plan(
        seed,
        chosen,
        _setup(chance, chosen),
        faults=chance.randrange(12, 17) if len(chosen) > 1 else 11,
        max_seconds=20.0,
        is_restart_checked=chance.random() < 0.2,
    )


def _sample(chance: random.Random, choices: list[Nemesis], count: int) -> list[Nemesis]:
    chosen: list[Nemesis] = []
    while len(chosen) < count:
        (each,) = chance.choices(choices, [nemesis.weight for nemesis in choices])
        if each not in chosen:
            chosen.append(each)
    return chosen


def _setup(chance: random.Random, chosen: Sequence[Nemesis]) -> Setup:
    names = {each.name for each in chosen}
    needs = {need for each in chosen for need in each.needs}
    tables = [f"t{n}" for n in range(1, chance.choice((1, 1, 2, 3)) + 1)]
    overflows = bool(names & set(_OVERFLOWS)) or chance.random() < 0.2
    queue_size = chance.choice((50, 100, 300)) if overflows else 100_000
    settings = {
        "RABBITMQ__WINDOW": str(chance.choice((10, 100, 1000, 5000))),
        "RABBITMQ__HEADERS": chance.choice(("compact", "full")),
        "OUTBOX__MAX_ENTRIES": str(chance.choice((500, 2000, 1_000_000))),
        "RETHINKDB__CHANGEFEED_QUEUE_SIZE": str(queue_size),
        "DRAIN_TIMEOUT": chance.choice(("1s", "5s", "20s")),
    }
    load = Load(
        tables=tables,
        keys=chance.choice((40, 200, 600)),
        writers=chance.randrange(2, 5),
        pause_seconds=chance.choice((0.005, 0.015, 0.03)),
        batch_share=chance.choice((0.05, 0.12, 0.25)),
        value_bytes=chance.choice((20, 200, 2000)),
    )
    return Setup(
        load,
        settings,
        is_on_small_volume="a small volume" in needs,
        has_fake_clock="libfaketime" in needs,
    )
