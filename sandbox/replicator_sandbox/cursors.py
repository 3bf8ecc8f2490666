"""Open streams of a connection: a finite result in batches, or a changefeed.

A changefeed sends a batch only when the client asks with CONTINUE. That is why its queue fills and
overflows when the reader is slow.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from replicator_sandbox import protocol
from replicator_sandbox.changefeed import Feed
from replicator_sandbox.datum import decode, encode
from replicator_sandbox.protocol import Note
from replicator_sandbox.reql_errors import ReqlError
from replicator_sandbox.terms.core import Query
from replicator_sandbox.terms.kinds import FeedValue

_DEFAULT_BATCH_BYTES = 1024 * 1024
_DEFAULT_BATCH_ROWS = 1 << 62
_FIRST_BATCH_SHARE = 4

Respond = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may be; the first is a quarter of that (RethinkDB's batching.cc)."""

    max_bytes: int = _DEFAULT_BATCH_BYTES
    max_rows: int = _DEFAULT_BATCH_ROWS

    @classmethod
    def of(cls, query: Query) -> "BatchLimits":
        """Return the limits that the query's options ask for."""
        return cls(
            int(query.option("max_batch_bytes") or _DEFAULT_BATCH_BYTES),
            int(query.option("max_batch_rows") or _DEFAULT_BATCH_ROWS),
        )

    def first(self) -> "BatchLimits":
        """Return the limits of the first batch."""
        return BatchLimits(max(self.max_bytes // _FIRST_BATCH_SHARE, 1), self.max_rows)


class RowsCursor:
    """The rest of a finite stream."""

    is_feed = False

    def __init__(self, elements: Iterable[Any], limits: BatchLimits, respond: Respond) -> None:
        """Send the first batch."""
        self._elements: Iterator[Any] = iter(elements)
        self._limits = limits
        self._respond = respond
        self.is_open = True
        self._send(limits.first())

    def ask(self) -> None:
        """Send the next batch."""
        self._send(self._limits)

    def _send(self, limits: BatchLimits) -> None:
        batch: list[bytes] = []
        size = 0
        for element in self._elements:
            if size >= limits.max_bytes or len(batch) >= limits.max_rows:
                self._elements = chain((element,), self._elements)
                break
            batch.append(element if type(element) is bytes else encode(element))
            size += len(batch[-1])
        else:
            self.is_open = False
        self._respond(protocol.batch(batch, is_last=not self.is_open))

    def stop(self) -> None:
        """Forget the rest; the caller answers."""
        self.is_open = False


class FeedCursor:
    """An open changefeed and the CONTINUE that waits for its next batch."""

    is_feed = True

    def __init__(
        self,
        value: FeedValue,
        feed: Feed,
        limits: BatchLimits,
        respond: Respond,
        respond_error: Callable[[ReqlError], None],
    ) -> None:
        """Send the first batch at once, even if it is empty, as a real server does."""
        self.feed = feed
        self.is_open = True
        self._value = value
        self._limits = limits
        self._respond = respond
        self._respond_error = respond_error
        self._left = value.limit
        self._is_asked = False
        self._wake: asyncio.Handle | None = None
        self._asked_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._notes: list[int] = [Note.ATOM_FEED if value.is_point else Note.SEQUENCE_FEED]
        if value.options.include_states:
            self._notes.append(Note.INCLUDES_STATES)
        feed.on_data = self._on_data
        self._send(self._take(limits.first()))

    def ask(self) -> None:
        """Answer with the next batch as soon as it has elements."""
        if self._is_asked:
            return
        self._is_asked = True
        self._asked_at = self._loop.time()
        self._answer()

    def stop(self) -> None:
        """Close the feed; a waiting CONTINUE is answered with the end of the stream."""
        self._close()
        if self._is_asked:
            self._respond(protocol.batch([], is_last=True))

    def close(self) -> None:
        """Close the feed of a connection that is gone."""
        self._close()

    def _on_data(self) -> None:
        """Answer soon: everything that one query writes may go into one batch."""
        if self._is_asked and self._wake is None:
            self._wake = self._loop.call_soon(self._answer)

    def _answer(self) -> None:
        self._wake = None
        if not self._is_asked or not self.is_open:
            return
        due_at = self._asked_at + self._value.options.squash_seconds
        if self.feed.error is None and self._loop.time() < due_at:
            self._wake = self._loop.call_at(due_at, self._answer)
            return
        try:
            elements = self._take(self._limits)
        except ReqlError as err:
            self._is_asked = False
            self._close()
            self._respond_error(err)
            return
        if elements or self._left == 0:
            self._is_asked = False
            self._send(elements)

    def _take(self, limits: BatchLimits) -> list[bytes]:
        if not self._value.transforms and self._left is None:
            return self.feed.take(limits.max_bytes, limits.max_rows)
        while elements := self.feed.take(limits.max_bytes, limits.max_rows):
            shown = self._transformed(elements)
            if shown:
                return shown
        return []

    def _transformed(self, elements: list[bytes]) -> list[bytes]:
        """Apply what the query does after ``changes``."""
        shown: list[Any] = [decode(element) for element in elements]
        for transform in self._value.transforms:
            shown = [after for before in shown for after in transform(before)]
        if self._left is not None:
            shown = shown[: self._left]
            self._left -= len(shown)
        return [encode(element) for element in shown]

    def _send(self, elements: list[bytes]) -> None:
        is_last = self._left == 0
        if is_last:
            self._close()
        self._respond(protocol.batch(elements, is_last=is_last, notes=self._notes))

    def _close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.feed.on_data = lambda: None
            self.feed.close()
