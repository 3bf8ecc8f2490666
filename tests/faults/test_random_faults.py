"""The short version of the campaign: fixed seeds, and a new one each time.

A failure prints its seed; `python -m tests.faults.campaign --seed SEED --runs 1` repeats it.
"""

import gc
import secrets
from collections.abc import Iterator

import pytest

from tests.faults.plan import left_out, make_plan
from tests.faults.run import run
from tests.faults.world import Lane
from tests.support.rethink import find_rethinkdb
from tests.support.servers import USED

SEEDS = [101, 102, 104]
ALONE = ["remove outbox"]
# The driver forgets a socket without closing it when the server has hung up first.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]
NEW_SEED = secrets.randbelow(10**9)


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect those sockets here: in another test the warnings would be errors."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def lane() -> Iterator[Lane]:
    with Lane() as lane:
        kind = "real, killed and frozen" if lane.has_real_rethinkdb else "embedded"
        USED.add(f"RethinkDB for faults: {kind}")
        for name, lacking in left_out(lane.abilities()).items():
            if not (lane.has_real_rethinkdb and lacking == ["embedded rethinkdb"]):
                USED.add(f"RethinkDB for faults: left out {name}, for want of {lacking[0]}")
        yield lane


@pytest.mark.parametrize("seed", [*SEEDS, pytest.param(NEW_SEED, id=f"new-{NEW_SEED}")])
def test_no_random_faults_lose_a_change(lane: Lane, seed: int) -> None:
    result = run(make_plan(seed, lane.abilities()), lane)

    assert not result.violations, "\n".join(result.violations)


@pytest.mark.parametrize("name", ALONE)
def test_this_one_alone_loses_nothing(lane: Lane, name: str) -> None:
    plan = make_plan(1, lane.abilities(), only=name)
    result = run(plan, lane)

    assert not result.violations, "\n".join(result.violations)


@pytest.mark.skipif(find_rethinkdb() is None, reason="it was embedded all the time")
def test_the_embedded_rethinkdb_takes_the_same_suite() -> None:
    with Lane(is_embedded=True) as lane:
        result = run(make_plan(201, lane.abilities()), lane)
        assert not result.violations, "\n".join(result.violations)
