"""What a batch of a changefeed means: which entries, which changes of the document index.

This is the heart of promise G2. Live changes and initial values are treated alike: both are
looked up in the index of what was put into the outbox before. An initial value

- with the same digest as in the index is nothing new,
- with another digest is an ``update``,
- that the index does not have is a ``create``.

After the snapshot, every row of the index that it did not contain is a ``delete``.

Pure: the same batch against the same index gives the same plan, so a step whose commit failed can
be decided again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from replicator.domain.envelope import NULL, Seal, Wrap, change_envelope, key_document
from replicator.domain.feed_element import Change
from replicator.domain.index import DELETED, IndexDraft
from replicator.domain.model import Known, Op, Origin

INITIAL: Final = "initial"
_LIVE_OPS: Final = {"add": Op.CREATE, "change": Op.UPDATE, "remove": Op.DELETE}


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An entry that has no number yet."""

    key: str
    op: Op
    origin: Origin
    body: bytes


class Plan(NamedTuple):
    """What a batch means, apart from what it changed in the index draft."""

    drafts: Sequence[Draft]
    seen: Sequence[int]  # row ids to mark as seen by the snapshot under way
    compared: int  # initial values looked at


class SnapshotRules(NamedTuple):
    """What the initial values of this snapshot mean."""

    origin: Origin  # of unknown documents: SNAPSHOT for a table's first publication, else RESYNC
    absorb_unknown: bool = False  # ``initial = "baseline"``: only record unknown documents
    absorb_changed: bool = False  # the projection changed, and the operator chose a baseline


@dataclass(frozen=True)
class TableRules:
    """What stays the same for a feed as long as the process runs."""

    primary_key: str
    keep_documents: bool = False
    wrap: Wrap = field(default=change_envelope)
    seal: Seal | None = None  # completes a body that has something of its entry in it


def digest(document: bytes | msgspec.Raw) -> bytes:
    """Return the 128-bit digest of a document's bytes as RethinkDB sends them.

    The same stored document has the same bytes as an initial value and as a change
    (tests/contract/test_encoding.py), so equal digests mean an equal state. SHA-256 cut to 16
    bytes: where the processor has instructions for it, it is the fastest of hashlib's.
    """
    return sha256(document).digest()[:16]


def reconcile(
    changes: Sequence[Change],
    keys: Sequence[str],
    index: IndexDraft,
    *,
    rules: TableRules,
    snapshot: SnapshotRules | None,
) -> Plan:
    """Compare a batch with the index, decide what it means, and change the index's draft.

    Args:
        changes: elements with a value, in feed order; without states and errors.
        keys: the primary key of each, normalised.
        index: the draft, which knows the rows of those keys.
        rules: those of the table.
        snapshot: what initial values mean; None while no snapshot is under way.

    Raises:
        ValueError: an element is of a type that a table feed does not have, or an initial value
            comes outside a snapshot.
    """
    drafts: list[Draft] = []
    seen: list[int] = []
    compared = 0
    for change, key in zip(changes, keys, strict=True):
        if change.type == INITIAL:
            if snapshot is None:
                raise ValueError("an initial value outside a snapshot")
            compared += 1
            row = _compare(change, key, index, drafts, rules=rules, snapshot=snapshot)
            seen.append(row.row_id)
            continue
        row_id = _take_live(change, key, index, drafts, rules=rules, snapshot=snapshot)
        # A document that was created while the snapshot ran, in a range already read, has no
        # initial value: without this mark the sweep would see it as deleted.
        if snapshot is not None and row_id is not None:
            seen.append(row_id)
    return Plan(drafts, seen, compared)


def _take_live(
    change: Change,
    key: str,
    index: IndexDraft,
    drafts: list[Draft],
    *,
    rules: TableRules,
    snapshot: SnapshotRules | None,
) -> int | None:
    """Take one live change in; return the row that stands for the document, if it is there."""
    op = _LIVE_OPS.get(change.type)
    if op is None:
        raise ValueError(f"a feed element of type {change.type!r}")
    # Absent values are empty, others stand as they are, ``null`` among them.
    body = rules.wrap(change.old_val or NULL, change.new_val or NULL)
    drafts.append(Draft(key, op, Origin.FEED, body))
    if op is not Op.DELETE:
        kept = bytes(change.new_val) if rules.keep_documents else None
        return index.put(key, digest(change.new_val), kept).row_id
    index.remove(key)
    if snapshot is not None and snapshot.absorb_unknown:
        # A row of its own, which this snapshot has not seen.
        index.put(key, DELETED, None)
    return None


def _compare(
    change: Change,
    key: str,
    index: IndexDraft,
    drafts: list[Draft],
    *,
    rules: TableRules,
    snapshot: SnapshotRules,
) -> Known:
    """Compare one initial value with the index; returns the row that now stands for it."""
    row = index.get(key)
    new_digest = digest(change.new_val)
    if row is not None and row.digest == new_digest:
        if rules.keep_documents and row.document is None:
            return index.put(key, new_digest, bytes(change.new_val))
        return row
    kept = bytes(change.new_val) if rules.keep_documents else None
    if row is None or row.digest == DELETED:
        if row is not None or not snapshot.absorb_unknown:
            body = rules.wrap(NULL, change.new_val)
            origin = snapshot.origin if row is None else Origin.RESYNC
            drafts.append(Draft(key, Op.CREATE, origin, body))
    elif not snapshot.absorb_changed:
        old = row.document if row.document is not None else NULL
        body = rules.wrap(old, change.new_val)
        drafts.append(Draft(key, Op.UPDATE, Origin.RESYNC, body))
    return index.put(key, new_digest, kept)


def deletes(unseen: Iterable[tuple[str, Known]], *, rules: TableRules) -> list[Draft]:
    """Return the drafts for documents that a finished snapshot did not see."""
    drafts: list[Draft] = []
    for key, row in unseen:
        if row.digest == DELETED:
            continue
        old = row.document if row.document is not None else key_document(rules.primary_key, key)
        drafts.append(Draft(key, Op.DELETE, Origin.RESYNC, rules.wrap(old, NULL)))
    return drafts
