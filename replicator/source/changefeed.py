"""One open changefeed: opened in the only way there is, read in batches.

Every feed starts with a snapshot (`include_initial`): at first, after a restart, after a lost
connection, after an overflow. There is no second way that only runs when something broke.
"""

import contextlib
from typing import Any, Final, Self

import msgspec
from rethinkdb import errors as reql
from rethinkdb import r

from replicator.domain.feed_element import Change, decode_response, skipped_changes
from replicator.domain.model import TableName
from replicator.errors import FeedAborted, FeedOverflowed
from replicator.source.connection import Server, asking, connect
from replicator.source.driver import close, shut
from replicator.source.projection import FieldRules, projected
from replicator.source.watchdog import Watch

_ANSWER_SECONDS: Final = 20.0
_OPEN_SECONDS: Final = 60.0
_SYSTEM: Final = "rethinkdb"
_MESSAGE_SECONDS: Final = 60.0  # a slow link takes its time for a batch of a megabyte


class _Undecodable(msgspec.Struct):
    error: str


class _Decoder:
    """The driver's decoder hook: keeps values raw, and never raises inside the driver."""

    def __init__(self, _options: object = None) -> None:
        """The driver passes its options; none of them matters to raw values."""

    def decode(self, text: str) -> dict[str, object]:
        try:
            return decode_response(text)
        except (msgspec.DecodeError, UnicodeError) as err:
            # After an exception here the cursor may never ask for more again (seen with 2.4.10):
            # the error travels as an element instead, and the feed is opened again.
            return {"t": 3, "r": [_Undecodable(str(err))]}


class OpenFeed:
    """A changefeed's cursor and its connection; for one thread, except `abort`."""

    def __init__(self, connection: Any, cursor: Any, watch: Watch, name: TableName) -> None:
        """Wrap a cursor that was opened over a connection of its own."""
        self._connection = connection
        self._cursor = cursor
        self._watch = watch
        self._name = name

    def abort(self) -> None:
        """End the feed from another thread: whoever reads gets an error at once."""
        shut(self._connection)

    def next_batch(self, wait_seconds: float) -> list[Any]:
        """Return what the server sent, waiting at most this long for its first byte.

        An empty list says that nothing came.

        Raises:
            FeedDisconnected, FeedAborted: the feed is over.
        """
        with self._asking(wait_seconds + _MESSAGE_SECONDS):
            try:
                first = self._cursor.next(wait=wait_seconds)
            except reql.ReqlTimeoutError:
                return []
            except reql.ReqlCursorEmpty as err:
                raise FeedAborted(f"the changefeed of {self._name} ended") from err
        # The driver keeps a decoded batch in a deque, and asks for more only when it is empty.
        batch = [first, *self._cursor.items]
        self._cursor.items.clear()
        return batch

    def _asking(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        return asking(self._connection, self._watch, seconds, self._name)


class Changefeed(OpenFeed):
    """An open feed of a table that is replicated."""

    host = ""
    table_id = ""
    primary_key = ""
    asks_id: Any = ""
    """The query that looks the feed's name up, for the id of the table that has it."""

    def read(self, wait_seconds: float) -> list[Change]:
        """Return what the server sent, as `next_batch` does.

        An error document within a batch is raised by the next read: what came before it is
        complete, and is returned first.

        Raises:
            FeedDisconnected, FeedAborted, FeedOverflowed: the feed is over; `close` it.
        """
        batch = self.next_batch(wait_seconds)
        for position, element in enumerate(batch):
            if isinstance(element, Change) and not element.error:
                continue
            if position:
                self._cursor.items.extend(batch[position:])
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
        the same way tells them apart. It also looks like one whose server is cut off, together
        with the primary replicas, from the majority of its cluster: such a feed stays open and
        silent while the other side takes writes (tests/faults/test_rethinkdb_cluster.py). Of a
        busy feed, a single shard may be cut off so. Only a read that a majority must agree to
        fails there.

        Returns whether the feed was quiet: the server had nothing for it when it was pinged. The
        server sends what it has as soon as it is asked for more, and in order with the answer. It
        was asked, unless the driver says that no request is outstanding: it asks only when its
        cursor is read if an empty response came first, or two came during one ping.

        Raises:
            FeedDisconnected: no answer in time.
            FeedAborted: the table cannot be read here now, or another one has its name: a feed
                stays with its table when that is renamed (tests/contract/test_changefeed_loss.py).
            TableUnusable: no table has its name.
        """
        table = r.db(self._name.database).table(self._name.table, read_mode="majority")
        cursor = self._cursor
        was_asked = cursor.outstanding_requests > 0
        with self._asking(_ANSWER_SECONDS):
            # Order matters: each of the two looks the name up. The other way round, a table that
            # takes the name in between would answer for the one that the feed is of.
            _, table_id = r.expr([table.is_empty(), self.asks_id]).run(self._connection)
        self.require_table(table_id)
        return was_asked and not cursor.items and cursor.error is None

    def require_table(self, table_id: object) -> None:
        """Raise FeedAborted unless this is the id of the feed's table, which its name led to."""
        if table_id != self.table_id:
            raise FeedAborted(
                f"{self._name} names another table now: it was renamed, or dropped and created",
                hint="the table that has the name now is compared with what was captured",
            )

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
        # Needs read permission and says so cleanly, unlike opening a feed without it.
        with asking(connection, watch, _ANSWER_SECONDS, name):
            facts = table.info().run(connection)
        feed = projected(table, fields, facts["primary_key"], name).changes(
            squash=False,
            include_initial=True,
            include_states=True,
            include_types=True,
            changefeed_queue_size=queue_size,
        )
        with asking(connection, watch, _OPEN_SECONDS, name):
            cursor = feed.run(connection, json_decoder=_Decoder)
        opened = Changefeed(connection, cursor, watch, name)
        opened.host = f"{connection.host}:{connection.port}"
        opened.table_id = facts["id"]
        opened.primary_key = facts["primary_key"]
        # Race: another table may have taken the name between the facts and the feed.
        with asking(connection, watch, _ANSWER_SECONDS, name):
            opened.asks_id, table_id = _look_up(table, name, connection)
        opened.require_table(table_id)
    except BaseException:
        close(connection)
        raise
    return opened


def _look_up(table: Any, name: TableName, connection: Any) -> tuple[Any, object]:
    """Return the query for the id of the table that a name leads to, and its present answer.

    `config` answers at once, and takes the permission to configure. `status` takes `read` only,
    and waits for each server of the table that hangs until RethinkDB gives it up (15 seconds by
    default). `info` does both worse: it counts the documents too (0.2 seconds for 300,000), but
    system tables have nothing else that every reader may ask.
    """
    if name.database == _SYSTEM:
        query = table.info()["id"]
    else:
        query = table.config()["id"]
        with contextlib.suppress(reql.ReqlPermissionError):
            return query, query.run(connection)
        query = table.status()["id"]
    return query, query.run(connection)
