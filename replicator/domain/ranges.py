"""Consecutive numbers as ranges."""

from collections.abc import Iterable, Iterator


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Return the first and the last of each run of consecutive numbers, in growing order.

    Confirms mostly come in order, so a thousand settled entries are one range to delete.
    """
    first = last = None
    for number in sorted(numbers):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
