"""The six tables of an outbox, as SQLAlchemy Core knows them.

Alembic's migrations (top-level ``migrations/``) create them; ``alembic check`` compares the two.
Instants are integers of microseconds since the epoch, UTC.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives out 64-bit row ids only for a column that is declared INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

PENDING: Final = "pending"
PARKED: Final = "parked"

meta: Final = Table(
    "meta",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True),
    Column("outbox_id", String(8), nullable=False),
    # Written once and never read: `outbox_id` is made of its first bits. To drop it would need a
    # migration, after which older versions refuse the outbox.
    Column("uuid", String(36), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # The highest number ever given to an entry. It is kept here because the entry itself is deleted
    # when it is confirmed, and a number must never be used twice.
    Column("last_entry", BigInteger, nullable=False),
)

feeds: Final = Table(
    "feeds",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("database_name", Text, nullable=False),
    Column("table_name", Text, nullable=False),
    # RethinkDB's id of the table and its primary key, as of the last time the feed was opened.
    Column("table_id", Text),
    Column("primary_key", Text),
    # The fields over which the digests of the index were made.
    Column("projection", Text, nullable=False),
    Column("absorb_changed", Integer, nullable=False, server_default=text("0")),
    Column("state", Text, nullable=False),
    # The checkpoint: when the feed was last opened, known complete, ready, and last changed.
    Column("opened_at", BigInteger),
    Column("alive_at", BigInteger),
    Column("first_ready_at", BigInteger),
    Column("ready_at", BigInteger),
    Column("changed_at", BigInteger),
    Column("captured", BigInteger, nullable=False, server_default=text("0")),
    Column("skipped", BigInteger, nullable=False, server_default=text("0")),
    Column("snapshot_documents", BigInteger, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    Column("last_error_at", BigInteger),
    # What the guard against mass deletion holds back, and how much of it an operator accepts: JSON.
    Column("guard", Text),
    Index("uq_feeds_database_name", "database_name", "table_name", unique=True),
)

entries: Final = Table(
    "entries",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=False),
    Column("feed_id", _RowId, ForeignKey("feeds.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("op", String(6), nullable=False),
    Column("origin", String(8), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("captured_at", BigInteger, nullable=False),
    Column("state", String(7), nullable=False, server_default=text(f"'{PENDING}'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt_at", BigInteger),  # always null; kept for the same reason as `uuid`
    Column("reason", Text),
    Column("last_error", Text),
    # Parked entries are few, so an index of them costs almost nothing.
    Index(
        "ix_entries_parked",
        "id",
        sqlite_where=text(f"state = '{PARKED}'"),
        postgresql_where=text(f"state = '{PARKED}'"),
    ),
)

documents: Final = Table(
    "documents",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=False),
    Column("feed_id", _RowId, ForeignKey("feeds.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    Column("document", LargeBinary),
    Index("uq_documents_feed_id", "feed_id", "key", unique=True),
)

gaps: Final = Table(
    "gaps",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("feed_id", _RowId, ForeignKey("feeds.id"), nullable=False),
    Column("cause", Text, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger),
    Column("created", BigInteger, nullable=False, server_default=text("0")),
    Column("updated", BigInteger, nullable=False, server_default=text("0")),
    Column("deleted", BigInteger, nullable=False, server_default=text("0")),
    Column("skipped", BigInteger, nullable=False, server_default=text("0")),
    Index("ix_gaps_feed_id", "feed_id", "closed_at"),
)

# Orders: what operators did and asked for. Rows are only ever appended: the running service reads
# those after the last one that it knows, and people read who dropped what.
operations: Final = Table(
    "operations",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("feed_id", _RowId, ForeignKey("feeds.id")),
    # The entries: a range of numbers, longer than one only for a redrive.
    Column("first_entry", BigInteger),
    Column("last_entry", BigInteger),
    # What was parked or discarded.
    Column("key", Text),
    Column("op", String(6)),
    Column("captured_at", BigInteger),
    Column("was", String(7)),
    # How many deletes were accepted; `captured_at` is when they were found.
    Column("deletes", BigInteger),
)
