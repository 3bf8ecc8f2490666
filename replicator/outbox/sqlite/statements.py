"""The SQL of the store's connection: every statement of the one writer, by name.

Lists are passed as one JSON value, so a statement is parsed once, whatever the number of keys, and
SQLite's limit on parameters does not matter. CROSS JOIN keeps the planner from scanning the index
and searching the list.
"""

import functools
from typing import Final

# This transaction takes the write lock at once, and waits for it. A deferred one, which first reads
# and then writes, can fail with BUSY when another connection wrote in between.
BEGIN: Final = "BEGIN IMMEDIATE"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"

# Identity.
IDENTITY: Final = "SELECT outbox_id, last_entry FROM meta"
MAKE_IDENTITY: Final = (
    "INSERT INTO meta (id, outbox_id, uuid, created_at, last_entry) VALUES (1, ?, ?, ?, 0)"
)
SAVE_LAST_ENTRY: Final = "UPDATE meta SET last_entry = ?"

# Entries.
ENTRY_COLUMNS: Final = "id, feed_id, key, op, origin, body, captured_at"
APPEND_ENTRIES: Final = f"INSERT INTO entries ({ENTRY_COLUMNS}) VALUES "
SETTLE: Final = "DELETE FROM entries WHERE id BETWEEN ? AND ? AND state = 'pending'"
RECORD_FAILURE: Final = "UPDATE entries SET attempts = attempts + ?, last_error = ? WHERE id = ?"
PARK: Final = (
    "UPDATE entries SET state = 'parked', attempts = attempts + 1, reason = ?, last_error = ? "
    "WHERE id = ? AND state = 'pending'"
)
PAGE: Final = (
    f"SELECT {ENTRY_COLUMNS} FROM entries WHERE id > ? AND state = 'pending' ORDER BY id LIMIT ?"
)
# Starts at a number: otherwise it would read through all parked entries, which are the oldest.
OLDEST: Final = (
    "SELECT id, captured_at FROM entries WHERE state = 'pending' AND id >= ? ORDER BY id LIMIT 1"
)
TOTALS: Final = (
    "SELECT state, count(*), coalesce(sum(length(body)), 0), min(captured_at) "
    "FROM entries GROUP BY state"
)
HIGHEST_ENTRY: Final = "SELECT max(id) FROM entries"
ENTRY_WITHOUT_FEED: Final = (
    "SELECT id FROM entries WHERE NOT EXISTS "
    "(SELECT 1 FROM feeds WHERE feeds.id = entries.feed_id) LIMIT 1"
)

# The document index.
_LOOK_UP: Final = (
    "SELECT d.key, d.id, d.digest, {document} FROM json_each(?) AS k "
    "CROSS JOIN documents AS d WHERE d.feed_id = ? AND d.key = k.value"
)
LOOK_UP: Final = _LOOK_UP.format(document="NULL")
LOOK_UP_WITH_DOCUMENTS: Final = _LOOK_UP.format(document="d.document")
LOOK_UP_RANGE: Final = (
    "SELECT key, id, digest, NULL FROM documents WHERE feed_id = ? AND key BETWEEN ? AND ?"
)
# Whether the key at an offset from the first is after the last; reads only the index of keys.
IS_AFTER_LAST: Final = (
    "SELECT key > ? FROM documents WHERE feed_id = ? AND key >= ? ORDER BY key LIMIT 1 OFFSET ?"
)
NEXT_PAGE: Final = (
    "SELECT key FROM documents WHERE feed_id = ? AND key >= ? ORDER BY key LIMIT 1 OFFSET ?"
)
# As one value: to fetch them row by row takes twice as long.
IDS: Final = "SELECT json_group_array(id) FROM documents WHERE feed_id = ? AND key >= ?"
IDS_OF_PAGE: Final = f"{IDS} AND key < ?"
_OF_IDS: Final = (
    "SELECT {columns} FROM documents WHERE id IN (SELECT value FROM json_each(?)) ORDER BY key"
)
KEYS_OF_IDS: Final = _OF_IDS.format(columns="key, id, NULL, x''")
ROWS_OF_IDS: Final = _OF_IDS.format(columns="key, id, document, digest")
KEYS_NOT_DELETED: Final = (
    "SELECT key, id FROM documents WHERE id IN (SELECT value FROM json_each(?)) AND digest <> ? "
    "ORDER BY key"
)
# Reads no document: its length is in the header of its row.
SIZES_OF_IDS: Final = _OF_IDS.format(columns="id, key, ifnull(length(document), 0)")
DOCUMENT_COLUMNS: Final = "id, feed_id, key, digest, document"
INSERT_DOCUMENTS: Final = f"INSERT INTO documents ({DOCUMENT_COLUMNS}) VALUES "
# Only for rows that exist: a new row whose id is in use must fail, not overwrite another.
UPDATE_DOCUMENTS_END: Final = (
    " ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, document = excluded.document"
)
DELETE_DOCUMENTS: Final = "DELETE FROM documents WHERE id IN (SELECT value FROM json_each(?))"
FORGET_DELETED: Final = "DELETE FROM documents WHERE feed_id = ? AND digest = ?"
FORGET_DOCUMENTS: Final = "UPDATE documents SET document = NULL WHERE feed_id = ?"
HIGHEST_ROW_ID: Final = "SELECT max(id) FROM documents"

# Feeds and gaps.
FEED: Final = "SELECT * FROM feeds WHERE database_name = ? AND table_name = ?"
MAKE_FEED: Final = (
    "INSERT INTO feeds (database_name, table_name, projection, state) VALUES (?, ?, ?, 'lost')"
)
LOSE_FEED: Final = "UPDATE feeds SET state = 'lost' WHERE id = ?"
FEED_NAMES: Final = "SELECT id, database_name, table_name FROM feeds"
FEED_NAMES_NOT_DROPPED: Final = (
    f"{FEED_NAMES} WHERE state <> 'dropped' AND database_name IN (SELECT value FROM json_each(?))"
)
GAP_COLUMNS: Final = "cause, opened_at, created, updated, deleted, skipped"
OPEN_GAP: Final = f"SELECT {GAP_COLUMNS} FROM gaps WHERE feed_id = ? AND closed_at IS NULL"
RECORD_GAP: Final = (
    f"INSERT INTO gaps (feed_id, {GAP_COLUMNS}, closed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
SAVE_GAP: Final = (
    "UPDATE gaps SET created = ?, updated = ?, deleted = ?, skipped = ?, closed_at = ? "
    "WHERE feed_id = ? AND closed_at IS NULL"
)

# Operators' orders.
ORDERS_AFTER: Final = "SELECT * FROM operations WHERE id > ? ORDER BY id"
LAST_ORDER: Final = "SELECT coalesce(max(id), 0) FROM operations"

# Of SQLite itself.
DATA_VERSION: Final = "PRAGMA data_version"
FREE_PAGES: Final = "PRAGMA freelist_count"
FREE_ONE_PAGE: Final = "PRAGMA incremental_vacuum(1)"

# Rows of one INSERT: a hundred, then fewer and fewer for the rest. SQLite compiles each size once
# and takes at most 32,766 values; Python's module keeps 128 compiled statements.
ROW_COUNTS: Final = (100, 32, 16, 8, 4, 2, 1)


@functools.cache  # few sets of columns are ever saved together, and one is at each commit
def save_feed(columns: tuple[str, ...]) -> str:
    """Return the statement that changes these columns of a feed; the feed's id comes last."""
    return f"UPDATE feeds SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?"


@functools.cache
def insert(head: str, columns: int, rows: int, end: str = "") -> str:
    """Return an INSERT of a number of rows.

    An `executemany` would release the interpreter's lock and take it back for each row; while
    another thread wants the lock, that costs more than the insert itself.
    """
    row = f"({', '.join('?' * columns)})"
    return head + ", ".join([row] * rows) + end
