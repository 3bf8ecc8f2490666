"""Which parked entries are superseded: to deliver them takes their document back to an old state.

An entry is not superseded when it is the document's state in the index, or when the entries that
are left of the document lead from it to that state without a break. It is about states, not about
entries: when a document came back to the state of a parked entry, by newer entries that are
confirmed, that entry only repeats what consumers have. A resync's entries do not
tell what was before (unless documents are kept), so behind one of them it is said to be
superseded: when in doubt, a person shall look.

Only reads the outbox; what it has to remember is in temporary tables of its own connection.
"""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, func, select, text

from replicator.domain.superseded import states
from replicator.operators.listing import ranges
from replicator.outbox.schema import entries

_OF_THE_SAME: Final = text(
    "INSERT INTO temp.newer SELECT e.id, e.feed_id, e.key FROM entries AS e "
    "CROSS JOIN temp.wanted AS w ON w.feed_id = e.feed_id AND w.key = e.key "
    "WHERE e.id > :low AND e.id <= :high"
)
# There may be a million entries: as they are, these are done in half the time.
_DOCUMENT: Final = "SELECT feed_id, key FROM entries WHERE id = ?"
_CHAIN: Final = (
    "SELECT n.id, e.body FROM temp.newer AS n CROSS JOIN entries AS e ON e.id = n.id "
    "WHERE n.feed_id = ? AND n.key = ? AND n.id >= ? ORDER BY n.id"
)
_DIGEST: Final = "SELECT digest FROM documents WHERE feed_id = ? AND key = ?"


class Supersession:
    """Tells it of a range of entries, best in the order of their numbers."""

    def __init__(self, connection: Connection, *, after: int, up_to: int) -> None:
        """Look for the documents of parked entries; the connection must not be in a transaction.

        Args:
            connection: one that reads; it has temporary tables until `close`.
            after: only entries with a higher number than this,
            up_to: and with none above this one: what they need is kept, however many others
                there are.
        """
        self._connection = connection
        self._seen = 0
        self._known: dict[int, bool | None] = {}
        for statement in (
            "CREATE TEMP TABLE wanted (feed_id, key, PRIMARY KEY (feed_id, key)) WITHOUT ROWID",
            "CREATE TEMP TABLE newer (id, feed_id, key)",
            "CREATE INDEX temp.ix_newer ON newer (feed_id, key, id)",
        ):
            connection.execute(text(statement))
        connection.execute(
            text(
                "INSERT OR IGNORE INTO temp.wanted SELECT feed_id, key FROM entries "
                "WHERE state = 'parked' AND id > :after AND id <= :up_to"
            ),
            {"after": after, "up_to": up_to},
        )

    def close(self) -> None:
        """Give the temporary space back."""
        for name in ("wanted", "newer"):
            self._connection.execute(text(f"DROP TABLE temp.{name}"))

    def look(self) -> None:
        """Take note of the entries that were captured since the last look."""
        for low, high in ranges(self._connection, self._seen):
            to = high or self._connection.execute(select(func.max(entries.c.id))).scalar() or low
            self._connection.execute(_OF_THE_SAME, {"low": low, "high": to})
            self._seen = to

    def of(self, number: int) -> bool | None:
        """Return whether an entry is superseded; None when its body does not tell."""
        if number not in self._known:
            self._walk(number)
        return self._known.pop(number, None)

    def _walk(self, number: int) -> None:
        """Follow a document's entries up to a break, or to one of which it is known."""
        found = self._connection.exec_driver_sql(_DOCUMENT, (number,)).one_or_none()
        if found is None:
            return
        document = tuple(found)
        chain: list[int] = []
        after: bytes | None = None
        for each, body in self._rows((*document, number)):
            if each in self._known:
                verdict = self._known[each]
                break
            change = states(body) if isinstance(body, bytes) else None
            if change is None:
                verdict = None
                chain.append(each)
                break
            if chain and change.before != after:
                verdict = True
                break
            chain.append(each)
            after = change.after
        else:
            verdict = after != self._digest(document)
        self._known |= dict.fromkeys(chain, verdict)

    def _rows(self, of: tuple[Any, ...]) -> Iterator[tuple[int, object]]:
        with self._connection.exec_driver_sql(_CHAIN, of) as rows:
            for row in rows:
                yield row[0], row[1]

    def _digest(self, document: tuple[Any, ...]) -> bytes | None:
        found = self._connection.exec_driver_sql(_DIGEST, document).scalar()
        return found if isinstance(found, bytes) else None
