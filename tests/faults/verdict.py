"""From a run that is over to what was broken in it: for the campaign, the soak and the clusters."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from tests.faults.checker import Facts, Gap, Violation, check, story
from tests.faults.recorder import Delivery, Recorder
from tests.faults.supervised import Supervised, is_for_a_full_disk
from tests.faults.workload import Server, Writers, read_table

# Documents of 2 KB fill what is bounded in bytes: both windows, the inbox, SQLite's cache.
_MAX_RESIDENT_MB = 200
# Beside entries: the index, free pages, and the log, of which SQLite keeps 64 MiB at most. A log
# that nobody copied back would grow by 10 MB a second.
_MAX_DISK_MB = 96
_PAGES_PER_BODY = 1.6
_THREADS_A_TABLE = 1
_MAX_OTHER_THREADS = 12
_MAX_SHOWN = 20
_MAX_STORIES = 50

Truth = dict[str, dict[str, Any]]


class Excuse(NamedTuple):
    """When the process may have ended by itself, with which status."""

    status: int
    since: float  # seconds since the epoch
    until: float


class Scene(Protocol):
    """A replicator between servers, under load, and the witnesses of what it does."""

    server: Server
    name: str
    """Of the database."""
    tables: Sequence[str]
    is_clock_true: bool
    """Whether the replicator's wall clock is the writers'."""
    replicator: Supervised
    recorder: Recorder
    writers: Writers


def read_tables(scene: Scene) -> Truth:
    """Return what the server has in every table; after the writers have stopped."""
    return {table: read_table(scene.server, scene.name, table) for table in scene.tables}


def has_converged(scene: Scene, truth: Truth) -> bool:
    """Say whether the copy is the table, every feed is ready and the outbox is empty."""
    return (
        all(scene.recorder.copy(table) == documents for table, documents in truth.items())
        and scene.replicator.is_ready()
        and query(scene, "SELECT count(*) FROM entries") == [(0,)]
    )


def query(scene: Scene, statement: str) -> list[tuple[Any, ...]]:
    """Ask the outbox, as an operator could."""
    outbox = scene.replicator.process.outbox
    connection = sqlite3.connect(f"file:{outbox}?mode=ro", uri=True)
    try:
        return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []  # it is being made
    finally:
        connection.close()


def facts_of(scene: Scene, truth: Truth) -> Facts:
    """Collect what the witnesses of a run saw; the run must be over."""
    ((outbox, last_entry),) = query(scene, "SELECT outbox_id, last_entry FROM meta")
    feeds = {}
    for number, table, ready in query(scene, "SELECT id, table_name, first_ready_at FROM feeds"):
        feeds[number] = (table, (ready or 0) / 1e6)
    index: dict[str, set[str]] = {table: set() for table in truth}
    for feed, key in query(scene, "SELECT feed_id, key FROM documents"):
        index[feeds[feed][0]].add(key)
    gaps = [
        Gap(feeds[feed][0], cause, opened / 1e6, closed and closed / 1e6, *counts)
        for feed, cause, opened, closed, *counts in query(
            scene,
            "SELECT feed_id, cause, opened_at, closed_at, created, updated, deleted FROM gaps",
        )
    ]
    return Facts(
        outbox=outbox,
        last_entry=last_entry,
        truth=truth,
        copy={table: scene.recorder.copy(table) for table in truth},
        index=index,
        history=scene.recorder.snapshot(),
        writes=scene.writers.writes,
        gaps=gaps,
        first_ready_at=dict(feeds.values()),
        is_clock_true=scene.is_clock_true,
    )


def broken_promises(
    scene: Scene,
    facts: Facts,
    faults: Sequence[tuple[float, str]] = (),
    excuses: Collection[Excuse] = (),
) -> list[str]:
    """Return what was broken, and the shortest history of a document that shows it.

    Args:
        scene: whose bounds are looked at.
        facts: what the witnesses saw.
        faults: what was done to the servers and when, in seconds since the epoch.
        excuses: when the process may have ended by itself, with which status.
    """
    violations = [*check(facts), *_bounds(scene), *_ends(scene, excuses)]
    if not violations:
        return []
    stories = (story(facts, each, faults) for each in violations[:_MAX_STORIES])
    found = [f"{each.promise}: {each.text}" for each in violations[:_MAX_SHOWN]]
    return [*found, min(stories, key=len)]


def _bounds(scene: Scene) -> Iterable[Violation]:
    """G5: as it was sampled while it ran."""
    entries = max((each.outbox_entries or 0 for each in scene.replicator.samples), default=0)
    # Each has two values at most.
    bodies_mb = entries * 2 * scene.writers.max_document_bytes / 1e6
    max_disk_mb = _MAX_DISK_MB + _PAGES_PER_BODY * bodies_mb
    threads = len(scene.tables) * _THREADS_A_TABLE + _MAX_OTHER_THREADS
    for each in scene.replicator.samples:
        if each.resident_mb > _MAX_RESIDENT_MB:
            yield Violation("G5", f"memory: {each}")
        if each.threads > threads:
            yield Violation("G5", f"threads: {each}")
        if each.outbox_mb > max_disk_mb:
            yield Violation("G5", f"disk: {each}")


def _ends(scene: Scene, excuses: Collection[Excuse]) -> Iterable[Violation]:
    """Yield the ends that nobody ordered and nothing explains, and tracebacks."""
    for end in scene.replicator.exits:
        # Once it works, it waits for room instead.
        is_explained = not end.has_begun and is_for_a_full_disk(end.status, end.log_tail)
        is_excused = any(
            end.status == status and since <= end.at <= until for status, since, until in excuses
        )
        if not is_excused and not is_explained:
            yield Violation("exit", f"the process ended by itself: {end}")
    text = scene.replicator.process.log()
    for sign in ("Traceback", "this is a defect"):
        if sign in text:
            at = text.index(sign)
            yield Violation("log", text[max(0, at - 500) : at + 1500])


class Seen(NamedTuple):
    """How a run looked to the consumer."""

    entries: int
    deliveries: int
    duplicates: int
    redelivered: int
    longest_pause_seconds: float


def seen_by_consumer(history: Sequence[Delivery], writing_from: float) -> Seen:
    """Count deliveries; a pause is the time between two first ones while writers write.

    Args:
        history: all deliveries in order of time.
        writing_from: seconds since the epoch; what came before was no pause.
    """
    seen: set[tuple[str, int]] = set()
    arrivals = [writing_from]
    duplicates = redelivered = 0
    for each in history:
        identity = (each.outbox, each.entry)
        if identity not in seen:
            seen.add(identity)
            arrivals.append(max(each.at, writing_from))
        elif each.is_redelivered:
            redelivered += 1
        else:
            duplicates += 1
    pauses = (after - before for before, after in pairwise(arrivals))
    return Seen(len(seen), len(history), duplicates, redelivered, max(pauses, default=0.0))
