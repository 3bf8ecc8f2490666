"""What must be true of a run, decided from what the servers, the writers and the consumer saw.

Pure: `check` takes the facts of a run that is over and healed, and returns what was broken. It
trusts nothing that the replicator says of itself but what it promises to say: the entries that
it numbered, and the gaps that it recorded.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.faults.recorder import Delivery
from tests.faults.workload import Write

_SHOWN = 60


class Gap(NamedTuple):
    """A gap as the outbox has it; instants in seconds since the epoch."""

    table: str
    cause: str
    opened_at: float
    closed_at: float | None
    created: int
    updated: int
    deleted: int


@dataclass
class Facts:
    """A run, as its witnesses tell it."""

    outbox: str
    last_entry: int
    truth: Mapping[str, Mapping[str, Any]]
    copy: Mapping[str, Mapping[str, Any]]
    index: Mapping[str, set[str]]
    history: Sequence[Delivery]
    writes: Sequence[Write] = ()
    gaps: Sequence[Gap] = ()
    first_ready_at: Mapping[str, float] = field(default_factory=dict)
    is_clock_true: bool = True


class Violation(NamedTuple):
    """A promise that was not kept, and the document it was seen on."""

    promise: str
    text: str
    table: str | None = None
    key: str | None = None


def check(facts: Facts) -> list[Violation]:
    """Return everything that was broken; an empty list is a run without fault."""
    by_document = _by_document(facts)
    found = [
        *_lost_entries(facts),
        *_differences(facts),
        *_disorder(by_document),
        *_repeats(by_document),
        *_gaps_left_open(facts),
        *_wrong_counts(facts),
    ]
    if facts.is_clock_true:
        found += _unexplained(facts)
    return found


Documents = Mapping[tuple[str, str], list[Delivery]]


def _by_document(facts: Facts) -> Documents:
    found: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
    for delivery in facts.history:
        if delivery.outbox == facts.outbox:
            found[delivery.table, delivery.key].append(delivery)
    return found


def _lost_entries(facts: Facts) -> Iterable[Violation]:
    """G1: every number that was ever given to an entry was delivered."""
    delivered = {each.entry for each in facts.history if each.outbox == facts.outbox}
    missing = sorted(set(range(1, facts.last_entry + 1)) - delivered)
    if missing:
        yield Violation("G1", f"{len(missing)} entries were never delivered: {missing[:20]}")
    unknown = sorted(entry for entry in delivered if entry > facts.last_entry)
    if unknown:
        yield Violation("G1", f"entries were delivered that were never captured: {unknown[:20]}")


def _differences(facts: Facts) -> Iterable[Violation]:
    """G2: the copy that messages made, and the index, are the table."""
    for table, documents in facts.truth.items():
        copy = facts.copy[table]
        for key in documents.keys() | copy.keys():
            if documents.get(key) != copy.get(key):
                text = f"the table has {documents.get(key)}, the copy {copy.get(key)}"
                yield Violation("G2", text, table, key)
        for key in documents.keys() ^ facts.index[table]:
            where = "the table" if key in documents else "the index"
            yield Violation("G2", f"only {where} has the document", table, key)


def _disorder(documents: Documents) -> Iterable[Violation]:
    """G3: first deliveries in order, and the newest entry last."""
    for (table, key), deliveries in documents.items():
        entries = [each.entry for each in deliveries]
        first = list(dict.fromkeys(entries))
        if first != sorted(first):
            yield Violation("G3", f"first deliveries came as {first[-20:]}", table, key)
        elif entries[-1] != first[-1]:
            text = f"the last delivery is entry {entries[-1]}, the newest is {first[-1]}"
            yield Violation("G3", text, table, key)


def _repeats(documents: Documents) -> Iterable[Violation]:
    """G2: what a comparison found differs from what was known; nothing is said twice."""
    for (table, key), deliveries in documents.items():
        by_entry = {each.entry: each for each in deliveries}
        before: Delivery | None = None
        for entry in sorted(by_entry):
            now = by_entry[entry]
            state = before.new_version if before else None
            if now.origin != "feed" and now.new_version == state:
                yield Violation("G2", f"entry {entry} repeats version {state}", table, key)
            before = now


def _gaps_left_open(facts: Facts) -> Iterable[Violation]:
    for gap in facts.gaps:
        if gap.closed_at is None:
            yield Violation("G4", f"the gap ({gap.cause}) is still open", gap.table)
        elif facts.is_clock_true and gap.closed_at < gap.opened_at:
            yield Violation("G4", f"{gap} ends before it begins", gap.table)


def _wrong_counts(facts: Facts) -> Iterable[Violation]:
    """G4: a gap counts what its repair created, updated and deleted."""
    told: Counter[tuple[str, str]] = Counter()
    for gap in facts.gaps:
        told[gap.table, "create"] += gap.created
        told[gap.table, "update"] += gap.updated
        told[gap.table, "delete"] += gap.deleted
    entries = {
        each.entry: (each.table, each.op)
        for each in facts.history
        if each.origin == "resync" and each.outbox == facts.outbox
    }
    seen = Counter(entries.values())
    for what in told.keys() | seen.keys():
        if told[what] != seen[what]:
            text = f"the gaps count {told[what]} of {what[1]}, the messages are {seen[what]}"
            yield Violation("G4", text, what[0])


def _unexplained(facts: Facts) -> Iterable[Violation]:
    """G4: a write that was acknowledged, and that no message tells of, lies in a gap."""
    told = {
        (each.table, each.key, *_state(each))
        for each in facts.history
        if each.outbox == facts.outbox
    }
    gaps: dict[str, list[Gap]] = defaultdict(list)
    for gap in facts.gaps:
        gaps[gap.table].append(gap)
    for write in facts.writes:
        # What was written before a table was first complete belongs to its first snapshot.
        if write.acked_at < facts.first_ready_at[write.table]:
            continue
        if (write.table, write.key, *_state(write)) in told:
            continue
        if not any(
            gap.opened_at <= write.acked_at
            and (gap.closed_at is None or write.sent_at <= gap.closed_at)
            for gap in gaps[write.table]
        ):
            text = f"nothing tells of it, and no gap explains it: {write}"
            yield Violation("G4", text, write.table, write.key)


def _state(change: Delivery | Write) -> tuple[bool, int | None]:
    """Return what a change left: a version, or the absence of one that was there before."""
    is_gone = change.new_version is None
    return is_gone, change.old_version if is_gone else change.new_version


def story(facts: Facts, violation: Violation, faults: Sequence[tuple[float, str]]) -> str:
    """Tell the history of the document that a violation was seen on, in order of time."""
    events: list[tuple[float, str]] = list(faults)
    for gap in facts.gaps:
        if gap.table == violation.table:
            events.append((gap.opened_at, f"gap opens ({gap.cause})"))
            events.append((gap.closed_at or float("inf"), f"gap closes {gap[4:]}"))
    for write in facts.writes:
        if (write.table, write.key) == (violation.table, violation.key):
            text = f"written: {write.old_version} -> {write.new_version}"
            events.append((write.acked_at, f"{text} (sent at {write.sent_at:.3f})"))
    for each in facts.history:
        if (each.table, each.key) == (violation.table, violation.key):
            change = f"{each.op} {each.old_version} -> {each.new_version} ({each.origin})"
            again = " redelivered" if each.is_redelivered else ""
            events.append((each.at, f"delivered: entry {each.entry}: {change}{again}"))
    lines = [f"{at:.3f} {text}" for at, text in sorted(events)]
    return "\n".join([f"{violation.promise} {violation.text}", *lines[-_SHOWN:]])
