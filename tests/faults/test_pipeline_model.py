"""The whole pipeline against simulated servers: thousands of interleavings in seconds."""

import os
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.pipeline.ledger import Settings, Violation
from tests.faults.pipeline.mutants import MUTANTS, Mutant
from tests.faults.pipeline.operator import commands_beside
from tests.faults.pipeline.parts import Database, Simulated, simulated
from tests.faults.pipeline.pipeline import Action, Pipeline

EXAMPLES = int(os.environ.get("PIPELINE_EXAMPLES", "100"))
"""For a long run: PIPELINE_EXAMPLES=20000, with another PIPELINE_SEED each time."""
MUTANT_EXAMPLES = 300

_WEIGHTS = {
    "follow": 14,
    "write": 14,
    "step_store": 12,
    "publish": 10,
    "connect": 6,
    "burst": 3,
    "churn": 8,
    "serve": 3,
    "read": 3,
    "turn": 3,
    "take": 3,
    "confirm": 3,
    "hear": 3,
    "refuse": 4,
    "lose_link": 5,
    "notice_lost": 2,
    "abort_feed": 1,
    "disconnect_feed": 1,
    "fail_over": 1,
    "drop_table": 1,
    "create_table": 2,
    "request_resync": 1,
    "wait_for_server": 1,
    "fail_commits": 1,
    "crash_in_commit": 1,
    "crash_after_commit": 1,
    "crash": 1,
    "stop": 1,
    "fill_disk": 1,
    "park": 3,
    "redrive": 3,
    "discard": 1,
    "discard_parked": 1,
    "change_their_mind": 2,
    "accept_deletes": 1,
    "lose_after_accepting": 1,
    "interpose": 4,
    "block": 1,
    "unblock": 2,
    "unbind": 1,
    "wait": 2,
    "set_clock": 1,
}


NAMES = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]
SCENARIOS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 255)), min_size=20, max_size=100
)
SETTINGS = st.builds(
    Settings,
    policy=st.sampled_from(["drop", "hold", "park"]),
    window=st.integers(1, 4),
    keep_documents=st.booleans(),
    is_baseline=st.sampled_from([False, False, False, True]),
    max_entries=st.sampled_from([14, 30, 1000]),
    delete_limit=st.sampled_from([None, 0, 1]),
)


@pytest.fixture(scope="module")
def world() -> Iterator[Simulated]:
    with simulated() as made:
        yield made


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database(tmp_path_factory.mktemp("pipeline") / "outbox.db")
    with commands_beside(opened):
        yield opened
    opened.close()


def test_the_promises_hold_in_every_interleaving(world: Simulated, database: Database) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        # Not `explain`: it takes longer than everything else together.
        phases=[Phase.generate, Phase.shrink],
    )
    @given(chosen=SETTINGS, scenario=SCENARIOS)
    def run(chosen: Settings, scenario: list[Action]) -> None:
        Pipeline(world, database, chosen).run(scenario)

    run()


def play_at_random(
    world: Simulated, database: Database, seed: int, focus: Sequence[str] = ()
) -> None:
    """Play what a seed makes: evenly random, so it meets rare coincidences sooner."""
    chosen = random.Random(seed)
    names = NAMES + [name for name in focus for _ in range(len(NAMES) // 4)]
    options = Settings(
        policy=chosen.choice(["drop", "hold", "park"]),
        window=chosen.randint(1, 4),
        keep_documents=chosen.random() < 0.5,
        is_baseline=chosen.random() < 0.2,
        max_entries=chosen.choice([14, 30, 1000]),
        delete_limit=chosen.choice([None, 0, 1]),
    )
    length = chosen.randint(20, 110)
    scenario = [(chosen.choice(names), chosen.randrange(256)) for _ in range(length)]
    Pipeline(world, database, options).run(scenario)


def play_seeds(
    world: Simulated, database: Database, seeds: Sequence[int], focus: tuple[str, ...]
) -> None:
    for seed in seeds:
        try:
            play_at_random(world, database, seed, focus)
        except Violation as err:
            raise Violation(f"{err} (seed {seed}, focus {focus})") from err


@pytest.mark.parametrize("focus", sorted({mutant.focus for mutant in MUTANTS}))
def test_the_promises_hold_whatever_a_seed_makes(
    world: Simulated, database: Database, focus: tuple[str, ...]
) -> None:
    first = int(os.environ.get("PIPELINE_SEED", "0"))
    play_seeds(world, database, range(first, first + EXAMPLES // 3), focus)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.break_it.__name__)
def test_a_broken_product_is_found_out(
    world: Simulated, database: Database, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant.break_it(monkeypatch)
    with pytest.raises(Violation, match=mutant.says):
        play_seeds(world, database, range(MUTANT_EXAMPLES), mutant.focus)
