"""The promises as checks on what a consumer received."""

from collections import defaultdict
from typing import Any

from tests.support.consumer import Consumer
from tests.support.wait import wait_until
from tests.support.writer import truth


def assert_order_is_kept(consumer: Consumer) -> None:
    """G3: first deliveries of a document are in order, and the last is its newest entry."""
    entries: dict[str, list[int]] = defaultdict(list)
    for message in consumer.history:
        document = message.old_val if message.new_val is None else message.new_val
        entries[f"{message.table} {document['id']!r}"].append(message.entry)
    for document, arrived in entries.items():
        first = list(dict.fromkeys(arrived))
        assert first == sorted(first), f"{document}: first deliveries {first}"
        assert arrived[-1] == max(arrived), f"{document}: the last delivered is not the newest"


def wait_for_equality(
    consumer: Consumer, connection: Any, database: str, seconds: float = 60
) -> None:
    """G2: the copy, built from messages alone, equals the table."""
    wait_until(
        lambda: consumer.documents("mytable") == truth(connection, database),
        seconds,
        "the copy to equal the table",
    )
