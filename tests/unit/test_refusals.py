"""Every refusal that RabbitMQ can give at a login or a declaration: does it pass, and what to do.

The texts are those of RabbitMQ 3.10.8 unless a version is named; those of 4 differ in details.
"""

import pytest

from replicator.errors import BrokerRefused, BrokerUnavailable
from replicator.publisher.refusals import (
    REFUSALS,
    Refusal,
    current,
    differing,
    is_missing,
    refusal_of,
)

NOT_TOLD = "nothing but that something was lost"

ANSWERS = [
    # At the login.
    (
        403,
        (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For "
            "details see the broker logfile."
        ),
        "refuses the user or password",
    ),
    (530, "NOT_ALLOWED - vhost nowhere not found", "refuses the virtual host"),
    (530, "NOT_ALLOWED - vhost limit not found", "refuses the virtual host"),
    (530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", "refuses the virtual host"),
    (
        530,
        "NOT_ALLOWED - access to vhost 'connection limit' refused for user 'u'",
        "refuses the virtual host",
    ),
    (
        530,
        "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (0) is reached",
        "has reached a limit",
    ),
    (
        530,
        "NOT_ALLOWED - connection refused for user 'u': user connection limit (5) is reached",
        "has reached a limit",
    ),
    (  # since 3.12
        530,
        "NOT_ALLOWED - connection refused: node connection limit (100) is reached",
        "has reached a limit",
    ),
    (  # 4
        530,
        (
            "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit cannot be "
            "queried, timeout"
        ),
        "has reached a limit",
    ),
    (
        541,
        "INTERNAL_ERROR - access to vhost 'v' refused for user 'u': vhost 'v' is down",
        "has stopped the virtual host",
    ),
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", NOT_TOLD),
    (320, "CONNECTION_FORCED - Node was put into maintenance mode", NOT_TOLD),
    # When a channel is opened.
    (
        530,
        (
            "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum "
            "allowed user limit of (1)"
        ),
        "has reached a limit",
    ),
    (
        530,
        (
            "NOT_ALLOWED - number of channels opened on node 'n' has reached the maximum "
            "allowed limit of (1)"
        ),
        "has reached a limit",
    ),
    # At a declaration.
    (
        403,
        "ACCESS_REFUSED - access to exchange 'login' in vhost 'v' refused for user 'u'",
        "gives no permission",
    ),
    (
        403,
        "ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'u'",
        "no permission",
    ),
    (404, "NOT_FOUND - no queue 'q' in vhost 'v'", NOT_TOLD),
    (
        405,
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost 'v'.",
        "for another connection alone",
    ),
    (
        406,
        "PRECONDITION_FAILED - cannot declare queue 'b': queue limit in vhost 'lim' (1) is reached",
        "has reached a limit",
    ),
    (  # 4
        406,
        (
            "PRECONDITION_FAILED - cannot declare exchange 'x' in vhost 'v': exchange limit "
            "of 9 is reached"
        ),
        "has reached a limit",
    ),
    (
        406,
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'limit reached' "
            "in vhost 'v': received none but current is the value '3' of type 'long'"
        ),
        "and it is another",
    ),
    (
        406,
        (
            "PRECONDITION_FAILED - invalid arg 'x-max-length' for queue 'q' in vhost 'v': "
            "{unacceptable_type,longstr}"
        ),
        "does not take the declaration",
    ),
    (503, "COMMAND_INVALID - unknown exchange type 'x-of-a-plugin'", "rabbitmq.exchange_type"),
    (406, "PRECONDITION_FAILED - unknown exchange type 'x-of-a-plugin'", "rabbitmq.exchange_type"),
    (
        541,
        (
            "INTERNAL_ERROR - Cannot declare a queue 'queue 'q' in vhost 'v'' of type "
            "'rabbit_stream_queue' on node 'n': the corresponding feature flag is disabled"
        ),
        "has a feature turned off",
    ),
    (  # 4
        541,
        "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.",
        "has a feature turned off",
    ),
    (541, "INTERNAL_ERROR - Cannot declare a queue 'q' on node 'n': {timeout,...}", NOT_TOLD),
    (506, "RESOURCE_ERROR - Stream coordinator unavailable for queue 'q' in vhost 'v'", NOT_TOLD),
    # When something is published.
    (
        403,
        "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost 'v'",
        "from other exchanges only",
    ),
]


@pytest.mark.parametrize(("code", "text", "words"), ANSWERS)
def test_an_answer_is_read_with_its_text(code: int, text: str, words: str) -> None:
    found = refusal_of(code, text)

    assert words in (found.words if found else NOT_TOLD)


def test_every_row_is_met_by_an_answer() -> None:
    met = {refusal_of(code, text) for code, text, _ in ANSWERS}

    assert set(REFUSALS) <= met


def test_what_passes_and_what_does_not() -> None:
    passing = {row.words for row in REFUSALS if row.kind is BrokerUnavailable}
    for_good = {row.words for row in REFUSALS if row.kind is BrokerRefused}

    assert passing == {
        "has reached a limit",
        "has stopped the virtual host",
        "keeps the queue for another connection alone",
    }
    assert not passing & for_good


@pytest.mark.parametrize("row", REFUSALS)
def test_every_row_makes_an_error_with_a_next_step(row: Refusal) -> None:
    error = row.error("mq:5672", "TEXT")

    assert str(error).startswith("RabbitMQ at mq:5672 ")
    assert str(error).endswith(": TEXT")
    assert error.hint


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("NOT_FOUND - no queue 'q' in vhost 'v'", True),
        ("NOT_FOUND - no exchange 'x' in vhost 'v'", True),
        (
            "NOT_FOUND - home node 'n' of durable queue 'q' in vhost 'v' is down or inaccessible",
            False,
        ),
        ("NOT_FOUND - queue 'q' in vhost 'v' process is stopped by supervisor", False),
        ("NOT_FOUND - failed to perform operation on queue 'q' in vhost 'v' due to timeout", False),
    ],
)
def test_a_queue_whose_node_is_down_is_not_missing(text: str, *, missing: bool) -> None:
    assert is_missing(404, text) is missing


@pytest.mark.parametrize(
    ("told", "value"),
    [
        ("is the value 'dlx' of type 'longstr'", "dlx"),
        ("is the value 'it's' of type 'longstr'", "it's"),
        ("is the value '-5' of type 'long'", -5),
        ("is the value '5' of type 'signedint'", 5),
        ("is the value 'true' of type 'bool'", True),
        ("is the value '{1,2}' of type 'table'", None),
        ("is the value 'cut o", None),
        ("is none", None),
    ],
)
def test_the_value_that_is_there_is_read(told: str, value: object) -> None:
    assert current(f"inequivalent arg 'x' for queue 'q': received none but current {told}") == value


def test_a_difference_is_named() -> None:
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost "
        "'v': received none but current is the value 'dlx' of type 'longstr'"
    )

    assert differing(406, text) == "x-dead-letter-exchange"
    assert differing(406, "PRECONDITION_FAILED - queue limit is reached") == ""
    assert differing(403, text) == ""
