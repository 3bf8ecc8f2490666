"""One fault run: load, faults, healing, convergence, and the verdict."""

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from tests.faults.checker import Facts, Gap, Violation, check, story
from tests.faults.nemeses import Nemesis
from tests.faults.plan import Plan
from tests.faults.workload import read_table
from tests.faults.world import Lane, World
from tests.support.wait import wait_until

_CONVERGE_SECONDS = 120
_START_SECONDS = 60
# Documents of 2 KB fill what is bounded in bytes: both windows, the inbox, SQLite's cache.
_MOST_RESIDENT_MB = 200
_THREADS_A_TABLE = 1
_MOST_OTHER_THREADS = 12

Truth = dict[str, dict[str, Any]]


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
    most_resident_mb: float = 0.0
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
    _judge(plan, world, truth, result, writing_from)
    if plan.is_restart_checked and not result.violations:
        _restart(world, result)


def _inject(plan: Plan, world: World) -> int:
    """Let the nemeses act until there were enough faults; alone, or two at a time."""
    places: dict[str, threading.Lock] = {each.place: threading.Lock() for each in plan.nemeses}
    deadline = time.monotonic() + plan.most_seconds
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


def read_tables(world: World) -> Truth:
    """Return what the server has in every table; after the writers have stopped."""
    tables = world.setup.load.tables
    return {table: read_table(world.lane.server, world.name, table) for table in tables}


def act_once(nemesis: Nemesis, world: World, chance: random.Random) -> int:
    """Let a nemesis act; returns how many faults it injected."""
    world.faults.append((time.time(), f"-- {nemesis.name} begins"))
    count = nemesis.act(world, chance)
    world.faults.append((time.time(), f"-- {nemesis.name} ends ({count})"))
    return count


def has_converged(world: World, truth: Truth) -> bool:
    """Say whether the copy is the table, every feed is ready and the outbox is empty."""
    return (
        all(world.recorder.copy(table) == documents for table, documents in truth.items())
        and world.replicator.is_ready()
        and query(world, "SELECT count(*) FROM entries") == [(0,)]
    )


def query(world: World, statement: str) -> list[tuple[Any, ...]]:
    """Ask the outbox, as an operator could."""
    connection = sqlite3.connect(f"file:{world.replicator.process.outbox}?mode=ro", uri=True)
    try:
        return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []  # it is being made
    finally:
        connection.close()


def facts_of(world: World, truth: Truth) -> Facts:
    """Collect what the witnesses of a run saw; the run must be over."""
    ((outbox, last_entry),) = query(world, "SELECT outbox_id, last_entry FROM meta")
    feeds = {}
    for number, table, ready in query(world, "SELECT id, table_name, first_ready_at FROM feeds"):
        feeds[number] = (table, (ready or 0) / 1e6)
    index: dict[str, set[str]] = {table: set() for table in truth}
    for feed, key in query(world, "SELECT feed_id, key FROM documents"):
        index[feeds[feed][0]].add(key)
    gaps = [
        Gap(feeds[feed][0], cause, opened / 1e6, closed and closed / 1e6, *counts)
        for feed, cause, opened, closed, *counts in query(
            world,
            "SELECT feed_id, cause, opened_at, closed_at, created, updated, deleted FROM gaps",
        )
    ]
    return Facts(
        outbox=outbox,
        last_entry=last_entry,
        truth=truth,
        copy={table: world.recorder.copy(table) for table in truth},
        index=index,
        history=world.recorder.snapshot(),
        writes=world.writers.writes,
        gaps=gaps,
        first_ready_at=dict(feeds.values()),
        is_clock_true=not world.setup.has_fake_clock,
    )


def _judge(
    plan: Plan,
    world: World,
    truth: Truth,
    result: Result,
    writing_from: float,
) -> None:
    facts = facts_of(world, truth)
    violations = check(facts)
    violations += _bounds(plan, world)
    shortest = sorted((story(facts, each, world.faults) for each in violations[:50]), key=len)
    if violations:
        result.violations += [f"{each.promise}: {each.text}" for each in violations[:20]]
        result.violations.append(f"seed {plan.seed}, {result.nemeses}\n{shortest[0]}")
    _measure(facts, world, result, writing_from)


def _measure(facts: Facts, world: World, result: Result, writing_from: float) -> None:
    seen: set[tuple[str, int]] = set()
    arrivals = [writing_from]
    for each in facts.history:
        identity = (each.outbox, each.entry)
        if identity not in seen:
            seen.add(identity)
            arrivals.append(max(each.at, writing_from))
        elif each.is_redelivered:
            result.redelivered += 1
        else:
            result.duplicates += 1
    pauses = (after - before for before, after in pairwise(arrivals))
    result.longest_pause_seconds = round(max(pauses, default=0.0), 2)
    result.changes = world.writers.count
    result.in_doubt = world.writers.in_doubt
    result.entries = len(seen)
    result.deliveries = len(facts.history)
    result.gaps = dict(Counter(gap.cause for gap in facts.gaps))
    result.repairs = sum(gap.created + gap.updated + gap.deleted for gap in facts.gaps)
    result.starts = world.replicator.starts
    result.outboxes_lost = world.outboxes_lost
    result.most_resident_mb = round(
        max((each.resident_mb for each in world.replicator.samples), default=0.0), 1
    )


def _bounds(plan: Plan, world: World) -> list[Violation]:
    """G5, and that the process ended only when it was told to, or had said why."""
    found = []
    threads = len(plan.setup.load.tables) * _THREADS_A_TABLE + _MOST_OTHER_THREADS
    for each in world.replicator.samples:
        if each.resident_mb > _MOST_RESIDENT_MB:
            found.append(Violation("G5", f"memory: {each}"))
        if each.threads > threads:
            found.append(Violation("G5", f"threads: {each}"))
    allowed = {status for nemesis in plan.nemeses for status in nemesis.exits}
    ends = [end for end in world.replicator.exits if end.status not in allowed]
    found += [Violation("exit", f"the process ended by itself: {end}") for end in ends]
    text = world.replicator.process.log()
    for sign in ("Traceback", "this is a defect"):
        if sign in text:
            at = text.index(sign)
            found.append(Violation("log", text[max(0, at - 500) : at + 1500]))
    return found


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
