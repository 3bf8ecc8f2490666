"""Changefeeds: what the next batch of a feed contains.

A feed is pulled: `take` returns the elements of one batch, when the client has asked for it. What
is not taken waits in a queue with a limit in changes; at the limit the whole queue is dropped, and
the next batch says how many changes that were. That is RethinkDB's behaviour (its changefeed.cc
and measurements of 2.4.4), and the reason why a slow reader loses changes.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replicator_sandbox.keys import HIGHEST, LOWEST
from replicator_sandbox.reql_errors import ReqlError
from replicator_sandbox.spans import Span
from replicator_sandbox.storage import SHARD_COUNT, Table

Transform = Callable[[bytes], bytes | None]
"""Turns a document into what the feed shows of it; None when it is not in the set."""

DEFAULT_QUEUE_SIZE = 100_000


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """The options of ``changes``."""

    squash: bool = False
    squash_seconds: float = 0.0
    include_initial: bool = False
    include_states: bool = False
    include_types: bool = False
    queue_size: int = DEFAULT_QUEUE_SIZE


class Feed:
    """What all changefeeds share: the queue, its limit, the ways to end."""

    def __init__(self, options: FeedOptions) -> None:
        """Open with an empty queue; ``on_data`` is called whenever `take` may have more."""
        self.options = options
        self.on_data: Callable[[], None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        self.permission_check: Callable[[], ReqlError | None] = lambda: None
        self.error: ReqlError | None = None
        self.skipped = 0
        self.is_ready_held = False
        self._queue: deque[tuple[int, int, bytes, bytes | None, bytes | None]] = deque()
        self._merged: dict[bytes, tuple[bytes | None, bytes | None]] | None = None
        self._pending_states = deque([b"ready"] if options.include_states else [])

    def __len__(self) -> int:
        """Return the number of changes that wait."""
        return len(self._queue) if self._merged is None else len(self._merged)

    def take(self, max_bytes: int, max_rows: int) -> list[bytes]:
        """Return the elements of the next batch; an empty list if nothing waits.

        Raises:
            ReqlError: the feed has ended; what still waited is lost, as on a real server.
        """
        if self.error is not None:
            raise self.error
        elements = self._next_elements(max_bytes, max_rows)
        if elements:
            # Checked after the batch: a user who lost the permission still gets this one.
            self.error = self.permission_check()
        return elements

    def abort(self, error: ReqlError) -> None:
        """End the feed: the next `take` raises ``error``, whatever still waits."""
        self.error = error
        self.on_data()

    def close(self) -> None:
        """Stop watching."""
        self.on_close()

    def overflow(self) -> None:
        """Drop everything that waits, as at the limit of the queue: a fault on demand."""
        self.skipped += max(len(self), 1)
        self._clear()
        self.on_data()

    def add(self, shard: int, stamp: int, key: bytes, old: bytes | None, new: bytes | None) -> None:
        """Queue one change, or drop the whole queue when it is over its limit."""
        if self._merged is not None:
            self._merge(key, old, new)
        else:
            self._queue.append((shard, stamp, key, old, new))
        if len(self) > self.options.queue_size:
            self.skipped += len(self)
            self._clear()
        self.on_data()

    def enable_squashing(self) -> None:
        """Merge the changes of one document from now on, if the options say so."""
        if self.options.squash and self._merged is None:
            self._merged = {}
            while self._queue:
                _, _, key, old, new = self._queue.popleft()
                self._merge(key, old, new)

    def _next_elements(self, max_bytes: int, max_rows: int) -> list[bytes]:
        """Return what waits: only the note of a loss, or states and changes in order."""
        if self.skipped:
            text = (
                b'{"error":"Changefeed cache over array size limit, skipped %d elements."}'
                % self.skipped
            )
            self.skipped = 0
            return [text]
        elements: list[bytes] = []
        size = 0
        while self._pending_states and not self.is_ready_held:
            elements.append(self.state(self._pending_states.popleft()))
        while size < max_bytes and len(elements) < max_rows and len(self):
            elements.append(self._pop())
            size += len(elements[-1])
        return elements

    def _pop(self) -> bytes:
        if self._merged is None:
            _, _, _, old, new = self._queue.popleft()
        else:
            key = next(iter(self._merged))
            old, new = self._merged.pop(key)
        return self.change(old, new)

    def _merge(self, key: bytes, old: bytes | None, new: bytes | None) -> None:
        merged = self._merged
        if merged is None:
            return
        if key in merged:
            old = merged[key][0]
        if old == new:
            merged.pop(key, None)
        else:
            merged[key] = (old, new)

    def _clear(self) -> None:
        self._queue.clear()
        if self._merged is not None:
            self._merged.clear()

    def change(self, old: bytes | None, new: bytes | None) -> bytes:
        """Return one change as an element of a batch."""
        kind = b""
        if self.options.include_types:
            name = b"add" if old is None else b"remove" if new is None else b"change"
            kind = b',"type":"%b"' % name
        return b'{"new_val":%b,"old_val":%b%b}' % (new or b"null", old or b"null", kind)

    def initial(self, document: bytes | None) -> bytes:
        """Return one initial value as an element of a batch."""
        kind = b',"type":"initial"' if self.options.include_types else b""
        return b'{"new_val":%b%b}' % (document or b"null", kind)

    def state(self, name: bytes) -> bytes:
        """Return one state as an element of a batch."""
        kind = b',"type":"state"' if self.options.include_types else b""
        return b'{"state":"%b"%b}' % (name, kind)


class TableFeed(Feed):
    """A feed on a table, a range of it, or some of its keys."""

    def __init__(
        self, table: Table, span: Span, transforms: Sequence[Transform], options: FeedOptions
    ) -> None:
        """Watch ``table`` from now on: every later write is in the feed."""
        super().__init__(options)
        self.table = table
        self._span = span
        self._transforms = tuple(transforms)
        self._is_reading = options.include_initial
        if self._is_reading and options.include_states:
            self._pending_states.appendleft(b"initializing")
        # Per hash shard: the last key read, the count of writes when it was read, the next
        # write that the queue expects, and the one after the last write that it has seen.
        self._position = [LOWEST] * SHARD_COUNT
        self._read_stamp = [0] * SHARD_COUNT
        self._expected = [shard.stamp for shard in table.shards]
        self._seen = list(self._expected)
        table.watchers.append(self)
        self.on_close = self._stop_watching
        if not self._is_reading:
            self.enable_squashing()

    def on_write(
        self, shard: int, stamp: int, key: bytes, old: bytes | None, new: bytes | None
    ) -> None:
        """Queue a write to a document of the feed, in the form that the feed shows."""
        times = self._span.count(key)
        if not times:
            return
        if self._transforms:
            old, new = self._shown(old), self._shown(new)
        if old == new:
            return
        self._seen[shard] = stamp + 1
        for _ in range(times):
            self.add(shard, stamp, key, old, new)

    def _stop_watching(self) -> None:
        if self in self.table.watchers:
            self.table.watchers.remove(self)

    def _shown(self, document: bytes | None) -> bytes | None:
        for transform in self._transforms:
            if document is None:
                return None
            document = transform(document)
        return document

    def _next_elements(self, max_bytes: int, max_rows: int) -> list[bytes]:
        if self._is_reading:
            elements = self._read_and_splice(max_bytes, max_rows)
            if elements or self._is_reading:
                return elements
        return super()._next_elements(max_bytes, max_rows)

    def _read_and_splice(self, max_bytes: int, max_rows: int) -> list[bytes]:
        """Return changes to what was read already, then further initial values.

        A change to a key that was not read yet is dropped here, because the next reads will
        contain it. While initial values are read nothing checks ``skipped``: a loss in this
        phase is reported late, only after ``ready`` became possible.
        """
        elements: list[bytes] = []
        size = 0
        if self._pending_states and self._pending_states[0] == b"initializing":
            elements.append(self.state(self._pending_states.popleft()))
        while self._queue and size < max_bytes and len(elements) < max_rows:
            shard, stamp, key, old, new = self._queue.popleft()
            self._expected[shard] = stamp + 1
            if key <= self._position[shard]:
                elements.append(self.change(old, new))
                size += len(elements[-1])
        self._catch_up()
        if size >= max_bytes or len(elements) >= max_rows:
            return elements
        while any(position < HIGHEST for position in self._position):
            self._read_initial(elements, max_bytes - size, max_rows)
            if elements:
                break  # only a batch that a filter left empty is not worth sending
        if not elements and self._is_caught_up() and not self.is_ready_held:
            self._is_reading = False
            self.enable_squashing()
        return elements

    def _read_initial(self, elements: list[bytes], max_bytes: int, max_rows: int) -> None:
        """Read the next keys of every hash shard that is not read completely."""
        unread = [index for index in range(SHARD_COUNT) if self._position[index] < HIGHEST]
        share = max(max_bytes // len(unread), 1)
        for index in unread:
            shard = self.table.shards[index]
            self._read_stamp[index] = shard.stamp
            size, after = 0, self._position[index]
            while size < share and after < HIGHEST:
                if len(elements) >= max_rows:
                    break
                keys = self._span.following(shard.keys, after, 64)
                for key in keys:
                    after = key
                    document = self._shown(shard.documents[key])
                    if document is not None:
                        elements += [self.initial(document)] * self._span.count(key)
                        size += len(document)
                    if size >= share or len(elements) >= max_rows:
                        break
                else:
                    if len(keys) < 64:
                        after = HIGHEST
            self._position[index] = after

    def _catch_up(self) -> None:
        """Expect the table's next write on shards whose known writes were all taken or dropped."""
        for index, shard in enumerate(self.table.shards):
            if self._expected[index] >= self._seen[index]:
                self._expected[index] = shard.stamp

    def _is_caught_up(self) -> bool:
        """Return whether everything was read and the changes up to those reads were taken.

        After a loss a shard's expected write stays too low until another write comes. That is why
        a real server falls silent without ``ready``.
        """
        return all(position >= HIGHEST for position in self._position) and all(
            expected >= read
            for expected, read in zip(self._expected, self._read_stamp, strict=True)
        )


class PointFeed(Feed):
    """A feed on one document, which need not exist."""

    def __init__(self, table: Table, key: bytes, options: FeedOptions) -> None:
        """Watch the document under ``key`` from now on."""
        super().__init__(options)
        self.table = table
        self._key = key
        self._initial: list[bytes] = []
        if options.include_initial:
            if options.include_states:
                self._initial.append(self.state(b"initializing"))
            self._initial.append(self.initial(table.get(key)))
        table.watchers.append(self)
        self.on_close = self._stop_watching
        self.enable_squashing()

    def on_write(
        self, shard: int, stamp: int, key: bytes, old: bytes | None, new: bytes | None
    ) -> None:
        """Queue a write to the document."""
        if key == self._key:
            self.add(shard, stamp, key, old, new)

    def _stop_watching(self) -> None:
        if self in self.table.watchers:
            self.table.watchers.remove(self)

    def _next_elements(self, max_bytes: int, max_rows: int) -> list[bytes]:
        initial, self._initial = self._initial, []
        return initial + super()._next_elements(max_bytes, max_rows)


class RowsFeed(Feed):
    """A feed on a system table: ``compare_with`` gives it the present rows."""

    def __init__(self, rows: dict[bytes, bytes], span: Span, options: FeedOptions) -> None:
        """Start from ``rows``, by key."""
        super().__init__(options)
        self._span = span
        self._rows = self._within(rows)
        if options.include_initial:
            if options.include_states:
                self._pending_states.appendleft(b"initializing")
            self._initial = [self.initial(row) for row in self._rows.values()]
        else:
            self._initial = []

    def compare_with(self, rows: dict[bytes, bytes]) -> None:
        """Queue the differences between ``rows`` and the rows of the last call."""
        rows = self._within(rows)
        for key in self._rows.keys() | rows.keys():
            old, new = self._rows.get(key), rows.get(key)
            if old != new:
                self.add(0, 0, key, old, new)
        self._rows = rows

    def _within(self, rows: dict[bytes, bytes]) -> dict[bytes, bytes]:
        return {key: row for key, row in rows.items() if self._span.count(key)}

    def _next_elements(self, max_bytes: int, max_rows: int) -> list[bytes]:
        elements: list[bytes] = []
        if self._pending_states and self._pending_states[0] == b"initializing":
            elements.append(self.state(self._pending_states.popleft()))
        elements += self._initial
        self._initial = []
        return elements + super()._next_elements(max_bytes, max_rows)
