"""What a batch of a changefeed means: which entries, which changes of the document index.

This is the heart of promise G2. A live change and an initial value take the same way: both are
looked up in the index of what was put into the outbox before. An initial value with the same
digest is nothing new; with another digest an ``update``; unknown, a ``create``. After the
snapshot, rows of the index that were not seen are ``delete``s.

Pure: the same batch against the same index gives the same plan, so a step whose transaction
failed is simply done again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from replicator.domain.envelope import NULL, Seal, Wrap, change_envelope, key_document
from replicator.domain.feed_element import Change
from replicator.domain.model import Known, Op, Origin

INITIAL: Final = "initial"
# The digest of a document whose delete was published before its table's first snapshot was
# complete. If it is made again unseen, the next snapshot must not take it for one that was always
# there, which a baseline would only record.
DELETED: Final = bytes(16)
_LIVE_OPS: Final = {"add": Op.CREATE, "change": Op.UPDATE, "remove": Op.DELETE}


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An entry that has no number yet."""

    key: str
    op: Op
    origin: Origin
    body: bytes


class Plan(NamedTuple):
    """What one transaction must do for one batch: append the drafts and change the index."""

    drafts: Sequence[Draft]
    inserted: Mapping[str, Known]  # new rows by key
    updated: Mapping[str, Known]  # rows whose digest (and kept document) changed, by key
    deleted: Sequence[int]  # row ids
    seen: Sequence[int]  # row ids to mark as seen by the snapshot under way
    next_row_id: int
    compared: int  # initial values looked at


class SnapshotRules(NamedTuple):
    """What the initial values of this snapshot mean."""

    origin: Origin  # of unknown documents: SNAPSHOT for a table's first publication, else RESYNC
    absorb_unknown: bool = False  # ``initial = "baseline"``: only record unknown documents
    absorb_changed: bool = False  # the projection changed and the operator took it as baseline


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


class _Overlay:
    """The index as it will be after the changes so far: the rows known, and what was changed.

    A key can occur many times in a batch; the transaction must see only the last of it.
    """

    def __init__(self, known: Mapping[str, Known], next_row_id: int) -> None:
        self.next_row_id = next_row_id
        self._known = known
        self._changed: dict[str, Known | None] = {}  # None for what was removed

    def get(self, key: str) -> Known | None:
        return self._changed[key] if key in self._changed else self._known.get(key)

    def put(self, key: str, row_digest: bytes, document: bytes | None) -> Known:
        row = self.get(key)
        if row is None:
            row_id = self.next_row_id
            self.next_row_id = row_id + 1
        else:
            row_id = row.row_id
        self._changed[key] = row = Known(row_id, row_digest, document)
        return row

    def remove(self, key: str) -> None:
        if self.get(key) is not None:
            self._changed[key] = None

    def effects(self) -> tuple[dict[str, Known], dict[str, Known], list[int]]:
        inserted: dict[str, Known] = {}
        updated: dict[str, Known] = {}
        deleted: list[int] = []
        for key, after in self._changed.items():
            before = self._known.get(key)
            if after is None:
                if before is not None:
                    deleted.append(before.row_id)
            elif before is None:
                inserted[key] = after
            elif before.row_id != after.row_id:
                # Deleted and created again within the batch: the old row goes, a new one comes.
                deleted.append(before.row_id)
                inserted[key] = after
            else:
                updated[key] = after
        return inserted, updated, deleted


def reconcile(
    changes: Sequence[Change],
    keys: Sequence[str],
    known: Mapping[str, Known],
    *,
    rules: TableRules,
    snapshot: SnapshotRules | None,
    next_row_id: int,
) -> Plan:
    """Decide what a batch means against the rows of the index that its keys name.

    Args:
        changes: elements with a value, in feed order; states and errors are not among them.
        keys: the primary key of each, normalised.
        known: the index rows of those keys.
        rules: the table's own.
        snapshot: what initial values mean; None when no snapshot is under way.
        next_row_id: the first row id that was never used.

    Raises:
        ValueError: an element is of a type that a table feed does not have, or an initial value
            comes outside a snapshot.
    """
    index = _Overlay(known, next_row_id)
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
        op = _LIVE_OPS.get(change.type)
        if op is None:
            raise ValueError(f"a feed element of type {change.type!r}")
        # Absent values are empty, others stand as they are, ``null`` among them.
        body = rules.wrap(change.old_val or NULL, change.new_val or NULL)
        drafts.append(Draft(key, op, Origin.FEED, body))
        if op is Op.DELETE:
            index.remove(key)
            if snapshot is not None and snapshot.absorb_unknown:
                # A row of its own, which this snapshot has not seen.
                index.put(key, DELETED, None)
        else:
            kept = bytes(change.new_val) if rules.keep_documents else None
            row = index.put(key, digest(change.new_val), kept)
            # A document that was created while the snapshot ran, in a range already read, has
            # no initial value: without this mark it would be taken for a deleted one.
            if snapshot is not None:
                seen.append(row.row_id)
    inserted, updated, deleted = index.effects()
    return Plan(drafts, inserted, updated, deleted, seen, index.next_row_id, compared)


def _compare(
    change: Change,
    key: str,
    index: _Overlay,
    drafts: list[Draft],
    *,
    rules: TableRules,
    snapshot: SnapshotRules,
) -> Known:
    """Compare one initial value with the index; return the row that now stands for it."""
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


def deletes(
    unseen: Iterable[tuple[str, Known]], *, rules: TableRules
) -> tuple[list[Draft], list[int]]:
    """Return drafts and row ids of documents that a finished snapshot did not see."""
    drafts: list[Draft] = []
    gone: list[int] = []
    for key, row in unseen:
        gone.append(row.row_id)
        if row.digest == DELETED:
            continue
        old = row.document if row.document is not None else key_document(rules.primary_key, key)
        drafts.append(Draft(key, Op.DELETE, Origin.RESYNC, rules.wrap(old, NULL)))
    return drafts, gone
