"""Write documents at a given rate, each with the moment at which it was written."""

import time
from collections.abc import Callable

from benchmarks.place import Place

_TICK_SECONDS = 0.002


def write_at_rate(
    place: Place,
    rate: int,
    seconds: float,
    *,
    size: int = 400,
    start: int = 0,
    is_wanted: Callable[[], bool] = lambda: True,
) -> int:
    """Insert ``rate * seconds`` documents, later than intended if need be; return their number.

    Documents that are due within 2 ms go in one query. ``sent_us`` is the machine's monotonic
    clock in microseconds, just before the query is written. Ends early when no more are wanted.
    """
    filler = "x" * max(0, size - 90)
    began = time.monotonic()
    written = 0
    total = int(rate * seconds)
    while written < total and is_wanted():
        due = min(total, int((time.monotonic() - began) * rate)) - written
        if due:
            sent_us = time.monotonic_ns() // 1000
            documents = [
                {"id": f"live-{start + n:012d}", "n": n, "sent_us": sent_us, "filler": filler}
                for n in range(written, written + due)
            ]
            place.insert_documents(documents, place.tables[0], noreply=True)
            written += due
        time.sleep(max(_TICK_SECONDS, (written + 1) / rate - (time.monotonic() - began)))
    return written
