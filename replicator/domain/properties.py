"""The AMQP properties of a message, and how to read its id back.

The properties of a live change stay within 64 encoded bytes, because a broker takes a quarter
more messages a second below that size (docs/performance.md). The id names the outbox and the
entry: it is the same in every redelivery and its number only grows.
"""

from typing import Final

from replicator.domain.instants import rfc3339
from replicator.domain.model import Entry, Origin, TableName

ORIGIN_HEADER: Final = "x-replicator-origin"
CONTENT_TYPE: Final = "application/json"
STRUCTURED_TYPE: Final = "application/cloudevents+json"

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"


def outbox_id(seed: bytes) -> str:
    """Return the first 40 bits of a UUID as 8 characters of ``a-z2-7``."""
    bits = int.from_bytes(seed[:5], "big")
    return "".join(_ALPHABET[(bits >> shift) & 31] for shift in range(35, -1, -5))


def message_id(outbox: str, number: int) -> str:
    """Return ``<outbox>-<entry>``, at most 28 characters up to entry 10**19."""
    return f"{outbox}-{number}"


def entry_number(text: str) -> int:
    """Return the entry's number in a message id.

    Raises:
        ValueError: the text is not a message id.
    """
    _, _, number = text.rpartition("-")
    return int(number)


def compact_headers(entry: Entry) -> dict[str, str | int] | None:
    """Return the headers of ``rabbitmq.headers = "compact"``: none for a live change."""
    if entry.origin is Origin.FEED:
        return None
    return {ORIGIN_HEADER: entry.origin.value}


def full_headers(entry: Entry, name: TableName) -> dict[str, str | int]:
    """Return the headers of ``rabbitmq.headers = "full"``."""
    return {
        "x-replicator-db": name.database,
        "x-replicator-table": name.table,
        "x-replicator-op": entry.op.value,
        "x-replicator-key": entry.key,
        ORIGIN_HEADER: entry.origin.value,
        "x-replicator-entry": entry.number,
        "x-replicator-captured-at": rfc3339(entry.captured_at),
    }
