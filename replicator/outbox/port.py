"""What a database must do to hold an outbox.

`Outbox` is for the store, which is its only writer: verbs that each take a batch. `Database` is for
the commands and for the start of the service. A command reads and writes with SQLAlchemy Core on
the connection that it gets, since the tables are `replicator.outbox.schema`'s on every database.
`replicator.outbox.opening` chooses the database by the URL.

The store reads without a transaction, since nobody else writes the index, the feeds or the gaps.
It decides, and what it has decided is one `Step`, which is committed whole or not at all. Other
processes change the states of entries, delete some, and append orders: that is why settling and
parking say what they found.
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
    """How much lies in an outbox."""

    pending: int
    parked: int
    bytes: int  # of the bodies
    oldest_captured_at: int | None  # of the pending ones, microseconds since the epoch


class Prepared(NamedTuple):
    """What an outbox knows when the store starts."""

    outbox_id: str
    last_entry: int  # the highest number that was given out
    next_row_id: int  # the first id that no row of the index has or had
    last_order: int  # the newest order; a start reads all that is there, so it is followed
    totals: Totals


class Registered(NamedTuple):
    """The feed of a table, as the outbox keeps it."""

    row: StoredFeed
    gap: Gap | None
    is_new: bool


class Step(NamedTuple):
    """Everything that the store has decided in one turn."""

    entries: Sequence[Entry] = ()
    last_entry: int = 0  # the highest number that was given out, this step's included
    index_changes: Mapping[int, IndexChange] = {}
    feeds: Sequence[tuple[Feed, Feed]] = ()  # as last committed, and as they are to be kept
    outcomes: Sequence[Outcomes] = ()


class Committed(NamedTuple):
    """What a commit found."""

    oldest_pending: tuple[int, int] | None  # number and instant of capture
    # Whether every entry that is settled or parked was pending; it is not if an operator was
    # faster, and then the totals must be read again.
    is_as_reported: bool


class EntryPage(NamedTuple):
    """Entries that were read back."""

    entries: list[Entry]
    is_last: bool  # there are no more after them


class Search(NamedTuple):
    """Which part of a feed's index is searched for rows that a snapshot has not seen."""

    feed_id: int
    seen: SeenRows
    start: str  # the first key to look at; the empty text is before all of them
    max_rows: int  # how many rows to look at
    max_bytes: int  # with values: stop before the document that exceeds this; one always comes
    with_values: bool  # return digests and kept documents; else digests are empty


class UnseenPage(NamedTuple):
    """What was found in such a part, in the order of its keys."""

    rows: Mapping[str, Known]  # those that were not seen, by key
    next_start: str | None  # the first key after this part; None when there is none


class Outbox(Protocol):
    """The verbs of the one writer; used by one thread at a time.

    Every verb raises `OutboxUnavailable` for what passes by itself (nothing was done: safe to
    repeat) and `OutboxUnusable` for what does not.
    """

    def prepare(self, now: int) -> Prepared:
        """Read what the outbox knows, giving it its identity when it is new.

        Raises:
            OutboxUnusable: the rows contradict each other; numbers would be used twice, or entries
                could not be published.
        """
        ...

    def register(self, name: TableName, projection: str) -> Registered:
        """Make or find the feed of a table, and set it to lost; safe to repeat.

        When it was indexed over other fields, documents that are kept are forgotten: a field that
        is excluded from now on must not come back as an old value. A transaction of its own.
        """
        ...

    def tables(self) -> dict[int, TableName]:
        """Return the tables of all feeds that this outbox has ever had, by feed."""
        ...

    def not_dropped(self, databases: Collection[str]) -> list[TableName]:
        """Return the tables of these databases whose deletes are not all captured."""
        ...

    def look_up(
        self, feed_id: int, keys: Sequence[str], *, with_documents: bool, is_in_order: bool
    ) -> dict[str, Known]:
        """Return the rows of the index that these keys have, and perhaps rows of keys in between.

        Args:
            feed_id: of which feed.
            keys: any number of them.
            with_documents: return the documents that are kept, too.
            is_in_order: whether the keys may be neighbours, as those of a snapshot are.
        """
        ...

    def unseen(self, search: Search) -> UnseenPage:
        """Look at some rows of a feed, in the order of their keys, for those not seen."""
        ...

    def commit(self, step: Step) -> Committed:
        """Write a step, whole or not at all: this is the only place where changes are committed.

        Entries are appended with the index rows that describe them and with the highest number
        given out (G2); settled entries are deleted, which only pending ones are; refused attempts
        are recorded; parked entries are set aside. It returns once the database would keep all of
        it through a loss of power (G1). Settling is safe to repeat.
        """
        ...

    def page(self, after: int, *, max_entries: int, max_bytes: int) -> EntryPage:
        """Read pending entries with higher numbers than ``after``, in the order of their numbers.

        Stops after the entry whose body exceeds ``max_bytes``; one always comes.
        """
        ...

    def version(self) -> int:
        """Return a number that changes when another process has changed the outbox."""
        ...

    def orders_after(self, number: int) -> list[Order]:
        """Return the orders with a higher number, oldest first."""
        ...

    def totals(self) -> Totals:
        """Count the entries; reads the whole outbox, so it is for after others' changes."""
        ...

    def is_room_low(self, *, was_low: bool) -> bool:
        """Return whether there is so little room left that the outbox counts as full.

        Settling needs a little room too: on a disk that is full to the last page nothing could be
        deleted, and a backlog could never drain. ``was_low`` asks for twice the room, so that the
        feeds do not stop and go with every message. Any thread may ask.
        """
        ...

    def tidy(self) -> None:
        """Give a little unused room back, if there is any; for when nothing else is to be done."""
        ...

    def require_in_place(self) -> None:
        """Check that the database is the one that was opened.

        Raises:
            OutboxUnusable: it was removed or replaced; whatever is committed would be gone.
        """
        ...

    def close(self) -> None:
        """Close what is open; safe to repeat."""
        ...


class Migrated(NamedTuple):
    """The schema's revision before and after; None: there was no schema."""

    before: str | None
    after: str


class Exposure(NamedTuple):
    """What every user of the host may do with the outbox, in words, and how to end it."""

    found: Sequence[str]
    remedy: str


class Preflight(NamedTuple):
    """What was found of an outbox on which a service could start."""

    exists: bool
    schema: str | None  # None: it has none yet
    wanted_schema: str  # this program's
    user: str | None  # see `Database.user`
    free_bytes: int
    exposure: Exposure | None


class Database(Protocol):
    """An outbox in its place; nothing is open until a verb is called.

    Every verb raises the errors of the outbox: OutboxUnavailable for what passes by itself, and
    what was begun is rolled back then, so the verb can be repeated; OutboxUnusable for what does
    not pass. Only what else it raises is named below.
    """

    @property
    def place(self) -> str:
        """How errors and logs name it; never with a password."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """Open it to read.

        Each statement is a transaction of its own, and none keeps the service waiting.

        Raises:
            OutboxMissing: it is not there.
            OutboxOutdated: it has to be migrated first.
            OutboxTooNew: a newer program wrote it.
        """
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """Open it to change it: one transaction, committed at the end of the block.

        It has the right to write from its beginning, so what it reads is still so when it writes.
        Whoever else has that right is waited for, at most for seconds: then it is
        OutboxUnavailable. Raises what `reading` does.
        """
        ...

    def exclusively(self) -> AbstractContextManager[None]:
        """Hold the right to run on it: one service for each outbox.

        It ends with the block, and with the process, however that ends.

        Raises:
            OutboxInUse: another process has it.
        """
        ...

    def user(self) -> str | None:
        """Return the process that runs on it, as it named itself; None when none does."""
        ...

    def upgrade(self, *, create: bool = False) -> Migrated:
        """Bring the schema to this program's, whole or not at all; safe to repeat.

        Order matters: call it while `exclusively` holds. A service that runs would go on with
        statements of the old schema.

        Args:
            create: make the outbox when it is not there.

        Raises:
            OutboxMissing: it is not there, and is not to be made.
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
        """Return what every user of this host may do with it; None for nothing."""
        ...

    def is_nearly_full(self) -> bool:
        """Return whether its room is so low that the feeds will pause soon."""
        ...

    def outbox(self) -> Outbox:
        """Open the verbs of the one writer.

        Order matters: call it while `exclusively` holds, after `upgrade`.
        """
        ...
