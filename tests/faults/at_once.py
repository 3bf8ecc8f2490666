"""Several slow things at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def at_once(*calls: Callable[[], object]) -> None:
    """Do all of them; raise the first error when all have ended."""
    with ThreadPoolExecutor(len(calls)) as pool:
        done = [pool.submit(call) for call in calls]
    for each in done:
        each.result()
