"""The short version of the campaign: fixed seeds, and a new one each time.

A failure prints its seed; `python -m tests.faults.campaign --seed SEED --runs 1` repeats it.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pytest

from tests.faults.at_once import at_once
from tests.faults.plan import left_out, make_plan
from tests.faults.run import run
from tests.faults.world import Lane
from tests.support.servers import USED


def new_seed() -> int:
    """Another one in each run of the tests, and the same in each process of a run."""
    shared = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return (int(shared, 16) if shared else secrets.randbits(128)) % 10**9


NEW_SEED = new_seed()
EMBEDDED = 2


class Job(NamedTuple):
    """A run, and on which lane."""

    lane: int
    seed: int
    only: str | None = None

    def __str__(self) -> str:
        return f"{'embedded ' * (self.lane == EMBEDDED)}{self.only or self.seed}"


AT_ONCE = [
    (Job(0, 1, only="remove outbox"), Job(1, 101), Job(EMBEDDED, 201)),
    # The one that `make test-rabbitmq4` selects.
    pytest.param((Job(0, 104), Job(1, NEW_SEED)), marks=pytest.mark.on_each_rabbitmq),
]
# The driver forgets a socket without closing it when the server has hung up first.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]


@pytest.fixture(scope="module")
def lanes() -> Iterator[Sequence[Lane]]:
    """Servers for two runs at once, since most of a run is waiting, and an embedded RethinkDB."""
    with ExitStack() as stack:
        lanes = [Lane(), Lane(), Lane(is_embedded=True)]
        at_once(*(partial(stack.enter_context, lane) for lane in lanes))
        lane = lanes[0]
        kind = "real, killed and frozen" if lane.has_real_rethinkdb else "embedded"
        USED.add(f"RethinkDB for faults: {kind}")
        for name, lacking in left_out(lane.abilities()).items():
            if not (lane.has_real_rethinkdb and lacking == ["embedded rethinkdb"]):
                USED.add(f"RethinkDB for faults: left out {name}, for want of {lacking[0]}")
        yield lanes


@pytest.mark.parametrize("jobs", AT_ONCE, ids=lambda jobs: "+".join(map(str, jobs)))
def test_no_random_faults_lose_a_change(lanes: Sequence[Lane], jobs: Sequence[Job]) -> None:
    violations: list[str] = []

    def judge(job: Job) -> None:
        lane = lanes[job.lane]
        plan = make_plan(job.seed, lane.abilities(), only=job.only)
        violations.extend(run(plan, lane).violations)

    at_once(*(partial(judge, job) for job in jobs))

    assert not violations, "\n".join(violations)
