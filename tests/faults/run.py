"""One fault run: load, faults, healing, convergence, and the verdict."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.checker import Facts
from tests.faults.nemeses import Nemesis
from tests.faults.plan import Plan
from tests.faults.verdict import (
    Excuse,
    broken_promises,
    facts_of,
    has_converged,
    query,
    read_tables,
    seen_by_consumer,
)
from tests.faults.world import Lane, World
from tests.support.wait import wait_until

_CONVERGE_SECONDS = 120
_START_SECONDS = 60
# For a process that began to start just before, and was slow.
_EXCUSED_SECONDS = 20


@dataclass
class Result:
    """What a run was and how it ended."""

    seed: int
    name: str
    nemeses: Sequence[str]
    faults: int = 0
    changes: int = 0
    in_doubt: int = 0
    entries: int = 0
    deliveries: int = 0
    duplicates: int = 0
    redelivered: int = 0
    gaps: dict[str, int] = field(default_factory=dict)
    repairs: int = 0
    starts: int = 0
    converged_seconds: float = 0.0
    longest_pause_seconds: float = 0.0
    seconds: float = 0.0
    max_resident_mb: float = 0.0
    max_outbox_mb: float = 0.0
    outboxes_lost: int = 0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(plan: Plan, lane: Lane) -> Result:
    """Do a run; whatever was broken is in the result's `violations`."""
    started = time.monotonic()
    result = Result(plan.seed, plan.name, [each.name for each in plan.nemeses])
    with World(lane, plan.setup, plan.seed) as world:
        try:
            _break_and_heal(plan, world, result)
        except Exception as err:  # noqa: BLE001 -- a run that cannot be judged has failed
            stacks = world.replicator.stacks()
            log = world.replicator.process.log()[-3000:]
            result.violations.append(f"{err!r}\n{log}\n{stacks}")
    result.seconds = round(time.monotonic() - started, 2)
    return result


def _break_and_heal(plan: Plan, world: World, result: Result) -> None:
    wait_until(world.replicator.is_ready, _START_SECONDS, "readiness")
    writing_from = time.time()
    with world.writers:
        result.faults = _inject(plan, world)
        world.heal()
    healthy_at = time.monotonic()
    truth = read_tables(world)
    try:
        wait_until(lambda: has_converged(world, truth), _CONVERGE_SECONDS, "convergence")
    except AssertionError as err:
        result.violations.append(str(err))
    result.converged_seconds = round(time.monotonic() - healthy_at, 2)
    facts = facts_of(world, truth)
    broken = broken_promises(world, facts, world.faults, _excuses(plan, world.faults))
    if broken:
        result.violations += [f"seed {plan.seed}, {result.nemeses}", *broken]
    _measure(facts, world, result, writing_from)
    if plan.is_restart_checked and not result.violations:
        _restart(world, result)


def _excuses(plan: Plan, faults: Sequence[tuple[float, str]]) -> list[Excuse]:
    """Return when each nemesis acted for which the process may end, and a while after it."""
    excuses: list[Excuse] = []
    for nemesis in plan.nemeses:
        begun = [at for at, text in faults if text == f"-- {nemesis.name} begins"]
        ended = [at for at, text in faults if text.startswith(f"-- {nemesis.name} ends")]
        excuses += [
            Excuse(status, since, until + _EXCUSED_SECONDS)
            for since, until in zip(begun, ended, strict=True)
            for status in nemesis.exits
        ]
    return excuses


def _inject(plan: Plan, world: World) -> int:
    """Let the nemeses act until there were enough faults; alone, or two at a time."""
    places: dict[str, threading.Lock] = {each.place: threading.Lock() for each in plan.nemeses}
    deadline = time.monotonic() + plan.max_seconds
    counts: list[int] = []
    errors: list[BaseException] = []

    def act(chance: random.Random) -> None:
        while sum(counts) < plan.faults and time.monotonic() < deadline and not errors:
            (nemesis,) = chance.choices(plan.nemeses, [max(n.weight, 0.1) for n in plan.nemeses])
            if not places[nemesis.place].acquire(timeout=0.05):
                continue
            try:
                counts.append(act_once(nemesis, world, chance))
            finally:
                places[nemesis.place].release()
            if nemesis.name in ("remove outbox", "corrupt outbox"):
                return  # once in a run: each is a new beginning
            time.sleep(chance.uniform(0.0, 0.4))

    def guarded(chance: random.Random) -> None:
        try:
            act(chance)
        except BaseException as err:  # noqa: BLE001 -- raised again below, in the run's thread
            errors.append(err)

    threads = [
        threading.Thread(target=guarded, args=(random.Random(f"{plan.seed}-nemesis-{n}"),))
        for n in range(min(2, len(plan.nemeses)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)


def act_once(nemesis: Nemesis, world: World, chance: random.Random) -> int:
    """Let a nemesis act; returns how many faults it injected."""
    world.faults.append((time.time(), f"-- {nemesis.name} begins"))
    count = nemesis.act(world, chance)
    world.faults.append((time.time(), f"-- {nemesis.name} ends ({count})"))
    return count


def _measure(facts: Facts, world: World, result: Result, writing_from: float) -> None:
    seen = seen_by_consumer(facts.history, writing_from)
    result.entries = seen.entries
    result.deliveries = seen.deliveries
    result.duplicates = seen.duplicates
    result.redelivered = seen.redelivered
    result.longest_pause_seconds = round(seen.longest_pause_seconds, 2)
    result.changes = world.writers.count
    result.in_doubt = world.writers.in_doubt
    result.gaps = dict(Counter(gap.cause for gap in facts.gaps))
    result.repairs = sum(gap.created + gap.updated + gap.deleted for gap in facts.gaps)
    result.starts = world.replicator.starts
    result.outboxes_lost = world.outboxes_lost
    samples = world.replicator.samples
    result.max_resident_mb = round(max((each.resident_mb for each in samples), default=0.0), 1)
    result.max_outbox_mb = round(max((each.outbox_mb for each in samples), default=0.0), 1)


def _restart(world: World, result: Result) -> None:
    """An orderly end and a start over unchanged tables: nothing may be published."""
    ((before,),) = query(world, "SELECT last_entry FROM meta")
    status = world.replicator.terminate()
    if status != 0:
        result.violations.append(f"exit: SIGTERM ended with status {status}")
    world.replicator.start()
    wait_until(world.replicator.is_ready, _START_SECONDS, "readiness after the last start")
    ((after,),) = query(world, "SELECT last_entry FROM meta")
    if after != before:
        result.violations.append(f"G2: a start over unchanged tables made {after - before} entries")
