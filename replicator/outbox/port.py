"""What a database must do to hold an outbox.

`Outbox` is for the store, which is its only writer: verbs that each take a batch. `Database` is for
the commands and for the start of the service. A command reads and writes with SQLAlchemy Core on
the connection that it gets, because every database has the tables of `replicator.outbox.schema`.
`replicator.outbox.opening` chooses the database by the URL.

The store reads without a transaction, because nobody else writes the index, the gaps, or what it
reads of feeds (a command may set ``absorb_changed`` and what it accepts of a ``guard``, which are
read when a feed is registered).
What it decides is one `Step`, which is committed whole or not at all. Commands, in other processes,
change the states of entries, delete some, and append orders: that is why `Outbox.commit` returns
what it found.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from replicator.domain.feed import Feed, Gap
from replicator.domain.index import IndexChange
from replicator.domain.model import Entry, Known, Outcomes, TableName
from replicator.domain.seen_rows import SeenRows
from replicator.outbox.feeds import StoredFeed
from replicator.outbox.orders import Order


class Totals(NamedTuple):
    """How much is in an outbox."""

    pending: int
    parked: int
    bytes: int  # of the bodies
    oldest_captured_at: int | None  # of the pending ones, microseconds since the epoch


class Prepared(NamedTuple):
    """What an outbox knows when the store starts."""

    outbox_id: str
    last_entry: int  # the highest number ever given to an entry
    next_row_id: int  # higher than the ids of all rows of the index
    last_order: int  # the newest order: a start reads everything, so these are carried out
    totals: Totals


class Registered(NamedTuple):
    """The feed of a table, as the outbox keeps it."""

    row: StoredFeed
    gap: Gap | None
    is_new: bool


class Step(NamedTuple):
    """Everything that the store has decided in one turn."""

    entries: Sequence[Entry] = ()
    last_entry: int = 0  # the highest number ever given to an entry, this step's included
    index_changes: Mapping[int, IndexChange] = {}
    feeds: Sequence[tuple[Feed, Feed]] = ()  # as last committed, and as they are to be kept
    outcomes: Sequence[Outcomes] = ()


class Committed(NamedTuple):
    """What a commit found."""

    oldest_pending: tuple[int, int] | None  # number and instant of capture
    # Whether every entry that was settled or parked was pending. If an operator was faster, it was
    # not, and the totals must be read again.
    is_as_reported: bool


class EntryPage(NamedTuple):
    """Entries that were read back."""

    entries: list[Entry]
    is_last: bool  # no pending entry comes after these


class Search(NamedTuple):
    """A part of a feed's index, to be searched for rows that a snapshot has not seen."""

    feed_id: int
    seen: SeenRows
    start: str  # the first key to look at; the empty text sorts before every key
    max_rows: int  # the number of rows to look at
    max_bytes: int = 0  # with values: stop before the document that exceeds this, but return one
    with_values: bool = False  # return digests and kept documents; otherwise digests are empty


class UnseenPage(NamedTuple):
    """What such a search found, in the order of the keys."""

    rows: Mapping[str, Known]  # those that the snapshot has not seen, by key
    next_start: str | None  # the first key after this part; None at the end of the index


class UnseenCount(NamedTuple):
    """How many documents of such a part were not seen, and how many it has."""

    keys: Sequence[str]  # of those not seen, in their order; without those that are `DELETED`
    documents: int  # all rows that were there before the snapshot began
    next_start: str | None  # the first key after this part; None at the end of the index


class Outbox(Protocol):
    """The verbs of the one writer; used by one thread at a time.

    Every verb raises `OutboxUnavailable` for a failure that passes by itself (nothing was done, and
    it is safe to repeat), and `OutboxUnusable` for one that does not.
    """

    def prepare(self, now: int) -> Prepared:
        """Read what the outbox knows; a new outbox gets its identity.

        Raises:
            OutboxUnusable: the rows contradict each other: numbers would be used twice, or entries
                could not be published.
        """
        ...

    def register(self, name: TableName, projection: str) -> Registered:
        """Find or make the feed of a table, and set it to lost; safe to repeat.

        If its index was made over other fields, kept documents are forgotten: a field that is
        excluded from now on must not come back as an old value. A transaction of its own.
        """
        ...

    def tables(self) -> dict[int, TableName]:
        """Return the tables of all feeds that this outbox ever had, by feed."""
        ...

    def not_dropped(self, databases: Collection[str]) -> list[TableName]:
        """Return the tables of these databases, except dropped ones whose deletes are captured."""
        ...

    def look_up(
        self, feed_id: int, keys: Sequence[str], *, with_documents: bool, is_in_order: bool
    ) -> dict[str, Known]:
        """Return these keys' rows of the index, and perhaps rows of keys in between.

        Args:
            feed_id: the feed.
            keys: any number of them.
            with_documents: whether to return the kept documents too.
            is_in_order: whether the keys may be neighbours, as those of a snapshot are.
        """
        ...

    def unseen(self, search: Search) -> UnseenPage:
        """Search some rows of a feed, in the order of their keys, for those not seen."""
        ...

    def count_unseen(self, search: Search, first_new_row: int) -> UnseenCount:
        """Count some documents of a feed, in the order of their keys, and those not seen.

        Args:
            search: which; its ``max_bytes`` and ``with_values`` do not matter.
            first_new_row: rows with this id and higher ones came after the snapshot began.
        """
        ...

    def commit(self, step: Step) -> Committed:
        """Write a step, whole or not at all: the only place where changes are committed.

        In one transaction:

        - entries are appended, with the index rows that describe them and the highest number (G2);
        - settled entries are deleted, if they are still pending;
        - refused attempts are recorded;
        - parked entries are set aside, if they are still pending;
        - what changed in the feeds and their gaps is saved.

        Returns once all of it would survive a loss of power (G1). Settling is safe to repeat.
        """
        ...

    def page(self, after: int, *, max_entries: int, max_bytes: int) -> EntryPage:
        """Read pending entries with higher numbers than ``after``, in the order of their numbers.

        Stops after the entry with which the bodies reach ``max_bytes``, so one always comes.
        """
        ...

    def version(self) -> int:
        """Return a number that changes when another process has changed the outbox."""
        ...

    def orders_after(self, number: int) -> list[Order]:
        """Return the orders with higher numbers than ``number``, oldest first."""
        ...

    def totals(self) -> Totals:
        """Count the entries. Reads the whole outbox: only for after others have changed it."""
        ...

    def is_room_low(self, *, was_low: bool) -> bool:
        """Return whether too little room is left, and the outbox counts as full.

        Settling needs some room too: on a disk that is full to the last page nothing could be
        deleted, and a backlog could never drain. With ``was_low``, twice the room is demanded, so
        that the feeds do not stop and go with every message. Any thread may ask. It must not raise
        `OutboxUnavailable`: the store asks after a commit, which it would then repeat.
        """
        ...

    def tidy(self) -> None:
        """Give a little unused room back to the system; for a moment with nothing else to do."""
        ...

    def require_in_place(self) -> None:
        """Check that the database is the one that was opened.

        Raises:
            OutboxUnusable: it was removed or replaced: whatever is committed would be lost.
        """
        ...

    def close(self) -> None:
        """Close what is open; safe to repeat."""
        ...


class Migrated(NamedTuple):
    """The schema's revision before and after; None before: it had no schema."""

    before: str | None
    after: str


class Exposure(NamedTuple):
    """What every user of the host may do with the outbox, in words, and how to stop that."""

    found: Sequence[str]
    remedy: str


class Preflight(NamedTuple):
    """What a check found out about an outbox on which a service could start."""

    exists: bool
    schema: str | None  # None: no schema yet
    wanted_schema: str  # this program's
    user: str | None  # see `Database.user`
    free_bytes: int
    exposure: Exposure | None


class Database(Protocol):
    """An outbox in its place; nothing is open until a verb is called.

    Every verb raises OutboxUnavailable for a failure that passes by itself (what was begun is
    rolled back, and it is safe to repeat), and OutboxUnusable for one that does not. The verbs
    below name only what they raise besides these two.
    """

    @property
    def place(self) -> str:
        """What errors and logs call it; never with a password."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """Open it for reading.

        Each statement is a transaction of its own, and none makes the service wait.

        Raises:
            OutboxMissing: it is not there.
            OutboxOutdated: it must be migrated first.
            OutboxTooNew: a newer program wrote it.
        """
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """Open it for changes: one transaction, committed at the end of the block.

        The transaction has the right to write from its beginning, so nothing that it reads changes
        before it writes. It waits a few seconds for another writer, then raises OutboxUnavailable.
        Raises what `reading` does, too.
        """
        ...

    def exclusively(self) -> AbstractContextManager[None]:
        """Hold the right to run on it: an outbox has one service.

        The right ends with the block, and with the process, however that ends.

        Raises:
            OutboxInUse: another process has it.
        """
        ...

    def user(self) -> str | None:
        """Return the name that the process running on it gave itself; None: no process does."""
        ...

    def upgrade(self, *, create: bool = False) -> Migrated:
        """Bring the schema to this program's, whole or not at all; safe to repeat.

        Order matters: call it while `exclusively` holds. A running service would go on with
        statements of the old schema.

        Args:
            create: whether to make the outbox if it is missing.

        Raises:
            OutboxMissing: it is not there, and ``create`` is false.
            OutboxTooNew: a newer program wrote it.
        """
        ...

    def check(self) -> Preflight:
        """Return whether a service could start on it; changes nothing.

        Raises:
            OutboxTooNew: a newer program wrote it.
        """
        ...

    def exposure(self) -> Exposure | None:
        """Return what every user of this host may do with it; None: nothing."""
        ...

    def is_nearly_full(self) -> bool:
        """Return whether it has so little room left that the feeds will pause soon."""
        ...

    def outbox(self) -> Outbox:
        """Open the verbs of the one writer.

        Order matters: call it after `upgrade`, while `exclusively` holds.
        """
        ...
