"""When another connection may do better: a broker that is silent, or refuses everything."""

from replicator.publisher.watch import BrokerWatch


def begun(now: float) -> BrokerWatch:
    made = BrokerWatch()
    made.begin(now)
    return made


def test_a_broker_that_confirms_nothing_for_long_is_left() -> None:
    watch = begun(100.0)

    assert watch.reason_to_leave(400.0, in_flight=1) is None
    text = "RabbitMQ has confirmed nothing for 300 seconds"
    assert watch.reason_to_leave(400.1, in_flight=1) == text


def test_a_broker_that_has_nothing_to_confirm_is_not_left() -> None:
    watch = begun(100.0)
    assert watch.reason_to_leave(1e6, in_flight=0) is None

    assert watch.reason_to_leave(1e6 + 299, in_flight=1) is None
    watch.confirmed(1e6 + 299)
    assert watch.reason_to_leave(1e6 + 500, in_flight=1) is None


def test_a_broker_that_refuses_every_message_is_left_each_time_after_a_longer_while() -> None:
    watch = begun(100.0)
    for seconds, patience in [(15, 15), (30, 30), (60, 60), (120, 120), (240, 240), (240, 240)]:
        watch.begin(1000.0)
        watch.refused(1000.0)
        watch.refused(1000.0 + seconds)
        assert watch.reason_to_leave(1000.0 + seconds, in_flight=1) is None
        text = f"RabbitMQ has refused every message for {patience} seconds"
        assert watch.reason_to_leave(1000.1 + seconds, in_flight=1) == text


def test_a_message_that_is_taken_ends_the_count_of_refusals() -> None:
    watch = begun(100.0)
    watch.refused(100.0)
    assert watch.reason_to_leave(115.1, in_flight=0) is None, "it refused only once"
    watch.refused(115.0)
    assert watch.reason_to_leave(115.1, in_flight=0) is not None
    watch.refused(120.0)
    watch.confirmed(121.0)
    watch.refused(122.0)
    watch.refused(136.9)

    assert watch.reason_to_leave(136.9, in_flight=0) is None
    assert watch.reason_to_leave(137.1, in_flight=0) is not None, "as patient as at first"


def test_one_that_refused_once_and_then_never_answered_is_silent() -> None:
    watch = begun(100.0)
    watch.refused(100.0)

    assert watch.reason_to_leave(300.0, in_flight=1) is None
    assert watch.reason_to_leave(400.1, in_flight=1) is not None
