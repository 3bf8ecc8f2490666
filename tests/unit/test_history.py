"""The figures of the last hour: bounded, and right about rates."""

import tracemalloc

import pytest

from replicator.web.history import HISTORY_SECONDS, SAMPLE_SECONDS, Flow, History, Sample


def sample(monotonic: float, *, at: float | None = None, unroutable: int = 0) -> Sample:
    wall = 1e9 + monotonic if at is None else at
    return Sample(wall, monotonic, 5, 1, 2, 0.5, 100, 90, unroutable)


def test_a_sample_comes_back_as_it_was() -> None:
    history = History()
    history.add(sample(7.25), {})

    assert history.samples() == [sample(7.25)]


def test_the_first_sample_is_due_at_once_and_the_next_after_its_time() -> None:
    history = History()
    assert history.is_due(0.0)

    history.add(sample(100.0), {})

    assert not history.is_due(100.0 + SAMPLE_SECONDS - 0.1)
    assert history.is_due(100.0 + SAMPLE_SECONDS)


def test_a_day_of_samples_takes_no_more_memory_than_an_hour() -> None:
    history = History()
    tracemalloc.start()
    for number in range(8640):
        history.add(sample(number * SAMPLE_SECONDS), {})
        if number == HISTORY_SECONDS / SAMPLE_SECONDS:
            hour, _ = tracemalloc.get_traced_memory()
    day, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(history.samples()) == HISTORY_SECONDS / SAMPLE_SECONDS
    assert history.samples()[-1].monotonic == 8639 * SAMPLE_SECONDS
    assert day < 1.05 * hour < 200_000


def test_what_is_older_than_an_hour_is_not_shown_after_a_long_stop() -> None:
    history = History()
    history.add(sample(0.0), {})
    history.add(sample(10.0), {})
    history.add(sample(HISTORY_SECONDS + 5.0), {})

    assert [each.monotonic for each in history.samples()] == [10.0, HISTORY_SECONDS + 5.0]


def test_a_rate_is_that_of_the_last_minute() -> None:
    history = History()
    for turn in range(20):
        captured = 1000 if turn < 10 else 1000 + 60 * (turn - 10)
        history.add(sample(turn * 10.0), {"db.t": Flow(captured, captured / 2)})

    assert history.rates() == {"db.t": Flow(6.0, 3.0)}


def test_there_is_no_rate_before_the_second_sample() -> None:
    history = History()
    assert history.rates() == {}

    history.add(sample(0.0), {"db.t": Flow(1000, 0)})

    assert history.rates() == {}


def test_a_table_that_comes_later_counts_from_nothing_and_none_has_a_rate_below_zero() -> None:
    history = History()
    history.add(sample(0.0), {"db.old": Flow(500, 500), "db.gone": Flow(1, 1)})
    history.add(sample(10.0), {"db.old": Flow(0, 0), "db.new": Flow(20, 10)})

    assert history.rates() == {"db.old": Flow(0.0, 0.0), "db.new": Flow(2.0, 1.0)}


@pytest.mark.parametrize(("seconds", "count"), [(10.0, 1.0), (20.0, 5.0), (600.0, 8.0)])
def test_unroutable_messages_are_counted_within_a_time(seconds: float, count: float) -> None:
    history = History()
    assert history.unroutable_within(seconds) == 0

    for turn, unroutable in enumerate([1, 4, 8, 9]):
        history.add(sample(turn * 10.0, unroutable=unroutable), {})

    assert history.unroutable_within(seconds) == count


@pytest.mark.parametrize("moved", [3600.0, -3600.0])
def test_a_clock_that_was_set_is_noticed_and_a_slow_one_is_not(moved: float) -> None:
    history = History()
    for turn in range(6):
        history.add(sample(turn * 10.0, at=1e9 + turn * 10.001), {})
    assert abs(history.clock_moved_seconds()) < 0.1

    history.add(sample(60.0, at=1e9 + 60.0 + moved), {})

    assert history.clock_moved_seconds() == pytest.approx(moved, abs=0.1)


def test_an_empty_history_knows_of_no_clock_that_was_set() -> None:
    assert History().clock_moved_seconds() == 0
    assert History().samples() == []
