"""The metrics of the contract: names, types, labels, and the histogram that counts batches."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from replicator import __version__
from replicator.domain.feed_state import FeedState
from replicator.metrics import BatchHistogram, Metrics, grouped_instants

CONTRACT = {
    "replicator_build_info": ("gauge", {"version"}),
    "replicator_changes_captured_total": ("counter", {"table", "op", "origin"}),
    "replicator_entries_confirmed_total": ("counter", {"table", "op"}),
    "replicator_publish_outcomes_total": ("counter", {"outcome"}),
    "replicator_unroutable_total": ("counter", {"table"}),
    "replicator_entries_parked_total": ("counter", {"reason"}),
    "replicator_delivery_seconds": ("histogram", set()),
    "replicator_confirm_seconds": ("histogram", set()),
    "replicator_commit_seconds": ("histogram", set()),
    "replicator_in_flight": ("gauge", set()),
    "replicator_outbox_entries": ("gauge", {"state"}),
    "replicator_outbox_bytes": ("gauge", set()),
    "replicator_outbox_max_entries": ("gauge", set()),
    "replicator_outbox_max_bytes": ("gauge", set()),
    "replicator_outbox_oldest_entry_age_seconds": ("gauge", set()),
    "replicator_feed_state": ("gauge", {"table", "state"}),
    "replicator_feed_guarded_deletes": ("gauge", {"table"}),
    "replicator_resyncs_total": ("counter", {"table", "cause"}),
    "replicator_gaps_total": ("counter", {"table", "cause"}),
    "replicator_resync_repairs_total": ("counter", {"table", "op"}),
    "replicator_snapshot_documents_total": ("counter", {"table"}),
    "replicator_changes_skipped_total": ("counter", {"table"}),
    "replicator_connected": ("gauge", {"peer"}),
    "replicator_reconnects_total": ("counter", {"peer"}),
    "replicator_broker_blocked": ("gauge", set()),
}


def filled() -> Metrics:
    metrics = Metrics()
    metrics.register_table("db.t")
    metrics.entries_parked.labels("too_large").inc()
    metrics.outbox_entries.labels("pending").set(1)
    return metrics


@pytest.mark.parametrize("name", CONTRACT)
def test_every_metric_of_the_contract_has_its_type_and_labels(name: str) -> None:
    kind, labels = CONTRACT[name]
    families = {f.name: f for f in text_string_to_metric_families(filled().render().decode())}
    family = families[name.removesuffix("_total") if kind == "counter" else name]

    assert family.type == kind
    assert family.documentation
    found = {frozenset(s.labels) - {"le"} for s in family.samples}
    assert found == {frozenset(labels)}
    assert any(sample.name.startswith(name) for sample in family.samples)


def test_there_is_no_metric_that_the_contract_does_not_know() -> None:
    families = text_string_to_metric_families(filled().render().decode())
    names = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}

    assert {name for name in names if not name.endswith("_created")} == set(CONTRACT)


def test_names_and_units_are_as_prometheus_wants_them() -> None:
    for line in filled().render().decode().splitlines():
        if not line.startswith("# TYPE") or "_created" in line:
            continue
        _, _, name, kind = line.split()
        assert re.fullmatch(r"replicator_[a-z_]+", name)
        assert name.endswith("_total") is (kind == "counter")
        assert not re.search(r"(milli|micro|nano)seconds|_ms$|_count$|_sum$|_bucket$", name)


def test_series_of_a_table_exist_before_anything_happens() -> None:
    metrics = filled()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("replicator_gaps_total", table="db.t", cause="overflow") == 0
    assert value("replicator_entries_confirmed_total", table="db.t", op="delete") == 0
    assert value("replicator_build_info", version=__version__) == 1
    assert value("replicator_feed_state", table="db.t", state="lost") == 1


@pytest.mark.parametrize("state", FeedState)
def test_a_feed_is_in_exactly_one_state(state: FeedState) -> None:
    metrics = filled()
    metrics.set_feed_state("db.t", FeedState.READY)
    metrics.set_feed_state("db.t", state)
    values = {
        each: metrics.registry.get_sample_value(
            "replicator_feed_state", {"table": "db.t", "state": each.value}
        )
        for each in FeedState
    }

    assert values == {each: float(each is state) for each in FeedState}


def rendered(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


BUCKETS = (0.0005, 0.01, 0.5, 1, 10, 3600, 86400)
SECONDS = st.sampled_from(BUCKETS) | st.integers(0, 2**20).map(lambda ticks: ticks / 1024)


@given(observed=st.lists(st.tuples(SECONDS, st.integers(1, 50)), max_size=20))
def test_a_batch_histogram_is_prometheus_own(observed: list[tuple[float, int]]) -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    ours = BatchHistogram("replicator_x_seconds", "X", BUCKETS)
    registries[0].register(ours)
    theirs = Histogram("replicator_x_seconds", "X", buckets=BUCKETS, registry=registries[1])
    for seconds, count in observed:
        ours.observe(seconds, count)
        for _ in range(count):
            theirs.observe(seconds)

    ours_lines, theirs_lines = rendered(registries[0]), rendered(registries[1])
    sums = [lines.pop(find_sum(lines)) for lines in (ours_lines, theirs_lines)]
    assert ours_lines == theirs_lines
    assert float(sums[0].split()[1]) == pytest.approx(float(sums[1].split()[1]))


def find_sum(lines: list[str]) -> int:
    return next(n for n, line in enumerate(lines) if line.startswith("replicator_x_seconds_sum"))


@given(instants=st.lists(st.integers(0, 3)))
def test_equal_neighbours_are_counted_together(instants: list[int]) -> None:
    groups = list(grouped_instants(map(float, instants)))

    assert [instant for instant, count in groups for _ in range(count)] == instants
    assert all(a[0] != b[0] for a, b in itertools.pairwise(groups))
