"""One open changefeed: opened in the only way there is, read in batches, kept honest.

Every feed starts with a snapshot (`include_initial`), at first, after a restart, after a lost
connection, after an overflow. There is no second way that only runs when something broke.
"""

import json
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec
from rethinkdb import errors as reql
from rethinkdb import r

from replicator.domain.feed_element import Change, decode_response, skipped_changes
from replicator.domain.model import TableName
from replicator.errors import FeedAborted, FeedOverflowed, SettingsInvalid
from replicator.source.connection import (
    Server,
    close,
    connect,
    shut,
    translated,
    watched,
)
from replicator.source.watchdog import Watch

_ANSWER_SECONDS: Final = 20.0
_OPEN_SECONDS: Final = 60.0
_MESSAGE_SECONDS: Final = 60.0  # a batch of a megabyte over a slow link takes its time


class FieldRules(NamedTuple):
    """Which fields RethinkDB itself leaves out, so that they never leave the database."""

    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None


class _Undecodable(msgspec.Struct):
    error: str


class _Decoder:
    """The driver's decoder hook: keeps values raw, and never raises inside of the driver."""

    def __init__(self, _options: object = None) -> None:
        """The driver passes its options; none of them matters to raw values."""

    def decode(self, text: str) -> dict[str, object]:
        try:
            return decode_response(text)
        except (msgspec.DecodeError, UnicodeError) as err:
            # An exception here would leave the cursor wedged (seen with 2.4.10): the
            # error travels as an element instead, and the feed is opened again.
            return {"t": 3, "r": [_Undecodable(str(err))]}


class Changefeed:
    """An open feed; one thread uses it, but `abort` may be called from any."""

    def __init__(self, connection: Any, cursor: Any, watch: Watch, name: TableName) -> None:
        """Wrap what `open_changefeed` opened."""
        self._connection = connection
        self._cursor = cursor
        self._watch = watch
        self._name = name
        self.host = ""
        self.table_id = ""
        self.primary_key = ""

    def read(self, wait_seconds: float) -> list[Change]:
        """Return what the server sent, waiting at most this long for its first byte.

        An empty list says that nothing came. An in-feed error document is raised only when it
        is the first of a batch; the elements before it are returned first.

        Raises:
            FeedDisconnected, FeedAborted, FeedOverflowed: the feed is over; `close` it.
        """
        cursor = self._cursor
        with (
            translated(str(self._name)),
            watched(self._connection, self._watch, wait_seconds + _MESSAGE_SECONDS),
        ):
            try:
                first = cursor.next(wait=wait_seconds)
            except reql.ReqlTimeoutError:
                return []
            except reql.ReqlCursorEmpty as err:
                raise FeedAborted(f"the changefeed of {self._name} ended") from err
        # The driver keeps a decoded batch in a deque; taking all of it at once is what makes
        # the next `next` ask the server for more.
        batch = [first, *cursor.items]
        cursor.items.clear()
        return self._before_error(batch)

    def _before_error(self, batch: list[Any]) -> list[Change]:
        for position, element in enumerate(batch):
            if isinstance(element, Change) and not element.error:
                continue
            if position:
                # What came before is complete; the rest comes again with the next read.
                self._cursor.items.extendleft(reversed(batch[position:]))
                return batch[:position]
            if isinstance(element, _Undecodable):
                raise FeedAborted(f"a batch of {self._name} cannot be read: {element.error}")
            raise FeedOverflowed(
                f"RethinkDB dropped changes of {self._name}: {element.error}",
                skipped=skipped_changes(element.error),
            )
        return batch

    def ping(self) -> bool:
        """Read from every shard of the table over the feed's own connection.

        A quiet feed looks like one whose link is dead in one direction; only an answer that comes
        the same way tells them apart. It also looks like one whose server is cut off from the
        majority of its cluster together with the primary replicas: such a feed stays open and
        silent while the other side takes writes (tests/faults/test_rethinkdb_cluster.py); of a
        busy one a single shard may be so. Only a read that a majority must agree to fails there.

        Returns whether the feed was quiet: false when elements came before the answer, which
        `read` has not returned yet, or could not come since nobody had asked for them.

        Raises:
            FeedDisconnected: no answer in time.
            FeedAborted: the table cannot be read here now.
        """
        table = r.db(self._name.database).table(self._name.table, read_mode="majority")
        with (
            translated(str(self._name)),
            watched(self._connection, self._watch, _ANSWER_SECONDS),
        ):
            was_asked = self._cursor.outstanding_requests > 0
            was_asked = not self._connection.wire.ask_for_more() and was_asked
            table.is_empty().run(self._connection)
        return was_asked and not self._cursor.items and self._cursor.error is None

    def ask_for_more(self) -> None:
        """Ask the server for what comes next, if that was put off until somebody waits for it.

        Raises:
            FeedDisconnected: the feed is over; `close` it.
        """
        with translated(str(self._name)):
            # Two responses that came during a ping are one to the driver: it has not asked yet.
            self._cursor._maybe_fetch_batch()  # noqa: SLF001
            self._connection.wire.ask_for_more()

    def abort(self) -> None:
        """End the feed from another thread: `read` raises at once."""
        shut(self._connection)

    def close(self) -> None:
        """Throw the connection away; never waits, never raises for a dead link."""
        close(self._connection)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()


def open_changefeed(
    server: Server, name: TableName, fields: FieldRules, *, queue_size: int, watch: Watch
) -> Changefeed:
    """Connect, check permission and open the feed of a table with its snapshot.

    Args:
        server: where.
        name: which table.
        fields: what the server leaves out.
        queue_size: changes that the server keeps for this reader before it drops all of them.
        watch: ends the attempt when the server does not answer.

    Raises:
        SourceUnavailable, FeedDisconnected, FeedAborted: try again.
        SourceRefused, TableUnusable, SettingsInvalid: somebody has to change something.
    """
    connection = connect(server)
    try:
        table = r.db(name.database).table(name.table)
        with translated(str(name)):
            # Needs read permission and says so cleanly, unlike opening a feed without it.
            with watched(connection, watch, _ANSWER_SECONDS):
                facts = table.info().run(connection)
            primary_key = facts["primary_key"]
            feed = _projected(table, fields, primary_key, name).changes(
                squash=False,
                include_initial=True,
                include_states=True,
                include_types=True,
                changefeed_queue_size=queue_size,
            )
            with watched(connection, watch, _OPEN_SECONDS):
                cursor = feed.run(connection, json_decoder=_Decoder)
    except BaseException:
        close(connection)
        raise
    opened = Changefeed(connection, cursor, watch, name)
    opened.host = f"{connection.host}:{connection.port}"
    opened.table_id = facts["id"]
    opened.primary_key = primary_key
    return opened


def _projected(table: Any, fields: FieldRules, primary_key: str, name: TableName) -> Any:
    if fields.exclude and primary_key in fields.exclude:
        raise SettingsInvalid(
            f"tables[{name}].exclude_fields names {primary_key!r}, the table's primary key",
            hint="the primary key can never be excluded",
        )
    if fields.include:
        return table.pluck(*map(_field, dict.fromkeys([primary_key, *fields.include])))
    if fields.exclude:
        return table.without(*fields.exclude)
    return table


def _field(name: str) -> Any:
    """Return a field's name for a query: the driver cannot send half a surrogate pair as it is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return r.json(json.dumps(name))
    return name


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000
