"""A real Prometheus scrapes a running replicator under load, while its broker goes and comes."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ

from tests.deploy.expressions import Expression, of_alerts, of_dashboard, of_recordings, rules
from tests.deploy.prometheus import Prometheus
from tests.support.consumer import Consumer
from tests.support.proxy import TcpProxy
from tests.support.replicator import ReplicatorProcess
from tests.support.servers import RethinkServer
from tests.support.wait import wait_until
from tests.support.writer import Writer

_VARIABLES = {
    "$__rate_interval": "1m",
    "$job": "replicator",
    "$instance": ".*",
    "$table": ".*",
}


@pytest.fixture
def prometheus(replicator: ReplicatorProcess, tmp_path: Path) -> Iterator[Prometheus]:
    with Prometheus(tmp_path, replicator.http) as started:
        yield started


@pytest.fixture
def network(
    replicator: ReplicatorProcess, rabbitmq: PrivateRabbitMQ, vhost: str
) -> Iterator[TcpProxy]:
    """What is between the replicator and its broker."""
    with TcpProxy(rabbitmq.port) as between:
        address = vhost.replace(f":{rabbitmq.port}", f":{between.port}")
        replicator.settings["RABBITMQ__URL"] = address
        yield between


def _filled_in(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def _has_data(prometheus: Prometheus, expression: Expression) -> bool:
    # A quantile of nothing is a series too: not a number.
    return any(
        math.isfinite(series.value) for series in prometheus.query(_filled_in(expression.text))
    )


def _firing_or_pending(prometheus: Prometheus) -> set[str]:
    return {series.labels["alertname"] for series in prometheus.query("ALERTS")}


def test_dashboard_and_rules_tell_of_an_outage(
    replicator: ReplicatorProcess,
    prometheus: Prometheus,
    network: TcpProxy,
    vhost: str,
    rethinkdb: RethinkServer,
    database: str,
) -> None:
    with Consumer(vhost), Writer(rethinkdb, database, seed=5) as writer:
        replicator.start_and_wait()
        wait_until(lambda: prometheus.value("up") == 1, 30, "a scrape")
        wait_until(
            lambda: "ReplicatorPeerAway" not in _firing_or_pending(prometheus), 30, "calm rules"
        )

        # When the broker goes, then gauges and alerts say so, and the backlog grows
        network.refuse()
        network.cut()
        wait_until(
            lambda: prometheus.value('replicator_connected{peer="rabbitmq"}') == 0, 60, "no broker"
        )
        wait_until(
            lambda: "ReplicatorPeerAway" in _firing_or_pending(prometheus), 30, "a pending alert"
        )
        wait_until(
            lambda: (prometheus.value('replicator_outbox_entries{state="pending"}') or 0) > 100,
            60,
            "a backlog",
        )
        wait_until(
            lambda: (prometheus.value("replicator_outbox_oldest_entry_age_seconds") or 0) > 3,
            60,
            "an age",
        )

        # When it comes again, then the backlog drains; sooner without more changes of the few
        # documents, of each of which one message at a time is under way
        writer.stop()
        network.heal()
        wait_until(
            lambda: (prometheus.value('replicator_reconnects_total{peer="rabbitmq"}') or 0) >= 1,
            90,
            "a new connection",
        )
        wait_until(
            lambda: (prometheus.value("replicator_outbox_oldest_entry_age_seconds") or 0) < 2,
            90,
            "a backlog that has drained",
        )
        wait_until(
            lambda: "ReplicatorPeerAway" not in _firing_or_pending(prometheus), 30, "calm again"
        )
        slowest = "histogram_quantile(1, rate(replicator_delivery_seconds_bucket[2m]))"
        assert (prometheus.value(slowest) or 0) > 2, "the outage is in the delivery times"

        # Then every panel and rule has something to show
        _assert_all_have_data(prometheus)


def _assert_all_have_data(prometheus: Prometheus) -> None:
    for expression in (*of_dashboard(), *of_recordings(), *of_alerts()):
        wait_until(
            lambda each=expression: _has_data(prometheus, each),
            20,
            f"data for {expression.place}: {expression.text}",
        )
    for rule in rules("record"):
        recorded = Expression("recorded", rule["record"])
        wait_until(
            lambda each=recorded: _has_data(prometheus, each), 20, f"data for {rule['record']}"
        )
    loaded = prometheus.rules()
    assert len(loaded) == len(rules("record")) + len(rules("alert"))
    sick = {rule["name"]: rule.get("lastError") for rule in loaded if rule["health"] != "ok"}
    assert sick == {}


def test_an_expression_of_an_unknown_metric_would_be_found(prometheus: Prometheus) -> None:
    assert not _has_data(prometheus, Expression("a panel", "rate(replicator_typo_total[5m])"))


def test_a_stopped_replicator_is_down(
    replicator: ReplicatorProcess, prometheus: Prometheus
) -> None:
    replicator.start_and_wait()
    wait_until(lambda: prometheus.value("up") == 1, 30, "a scrape")
    assert replicator.terminate() == 0
    wait_until(lambda: "ReplicatorDown" in _firing_or_pending(prometheus), 30, "a pending alert")
