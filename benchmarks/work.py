"""What a work is, and what it runs with."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.figures import Goal, Measurement
from benchmarks.servers import Servers

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Run:
    """One run of the benchmarks: where, how often, how large."""

    servers: Servers
    directory: Path
    """For outboxes; a temporary one."""

    rounds: int
    scale: float
    order: random.Random

    def scaled(self, count: int, minimum: int = 100) -> int:
        """Return how much of the full work to do."""
        return max(minimum, round(count * self.scale))

    def in_rounds(self, items: Sequence[_Item]) -> Iterator[tuple[int, _Item]]:
        """Give all items in each round, each time in another order."""
        for number in range(1, self.rounds + 1):
            for item in self.order.sample(items, len(items)):
                yield number, item

    def say(self, text: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


class Work(NamedTuple):
    name: str
    title: str
    measure: Callable[[Run], Iterator[Measurement]]
    figures: tuple[str, ...]
    """What the table shows, the most important figure first."""

    peer: str = "tutorial"
    """The program to which the table's ratios refer; empty: no ratios."""

    goals: tuple[Goal, ...] = ()
    minutes: float = 1.0
    """About how long three rounds at full scale take on an idle machine with two cores."""
