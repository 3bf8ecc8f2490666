"""What people read of pika's exceptions: what happened, and nothing of the library's inside."""

import socket
import ssl

import pytest
from pika import exceptions, spec
from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorAMQPHandshakeError,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
)
from pika.frame import Method

from replicator.errors import BrokerRefused, BrokerUnavailable
from replicator.publisher.answers import is_of_the_login, reason_of, translate

LOST = exceptions.StreamLostError(
    "Stream connection lost: ConnectionResetError(104, 'Connection reset by peer')"
)
REFUSED = ConnectionRefusedError(111, "Connection refused")
LIMIT = exceptions.ConnectionClosedByBroker(
    530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (0) is reached"
)
STACK_TIMEOUT = AMQPConnectorStackTimeout(
    "Timeout during AMQP handshake'mq'/(<AddressFamily.AF_INET: 2>, 6, '', ('::', 1)); ssl=False"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LOST, "Connection reset by peer"),
        (exceptions.StreamLostError("Transport indicated EOF"), "the other side hung up"),
        (exceptions.IncompatibleProtocolError(repr(LOST)), "Connection reset by peer"),
        (exceptions.ProbableAccessDeniedError(repr(LIMIT)), LIMIT.reply_text),
        (
            exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - bye\nx"),
            "CONNECTION_FORCED - bye",
        ),
        (exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no"), "NOT_FOUND - no"),
        (
            AMQPConnectionWorkflowFailed([AMQPConnectorSocketConnectError(REFUSED)]),
            "Connection refused",
        ),
        (
            exceptions.AMQPConnectionError(AMQPConnectorSocketConnectError(REFUSED)),
            "Connection refused",
        ),
        (
            AMQPConnectorSocketConnectError(
                TimeoutError("TCP connection attempt timed out: 'mq'/(<AddressFamily.AF_INET: 2>)")
            ),
            "no answer in time",
        ),
        (AMQPConnectorAMQPHandshakeError(STACK_TIMEOUT), "no answer to the login in time"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLEOFError(8, "[SSL] EOF occurred (_ssl.c:1006)"), "the other side hung up"),
        (exceptions.ConnectionWrongStateError(), "the connection was lost"),
        (exceptions.ChannelWrongStateError("Channel is closed."), "the channel was lost"),
        (
            exceptions.UnexpectedFrameError(Method(0, spec.Connection.Start())),
            "an answer that is not AMQP 0-9-1",
        ),
        (exceptions.InvalidFrameError("Invalid FRAME_END"), "an answer that is not AMQP 0-9-1"),
        (
            exceptions.AMQPHeartbeatTimeout("No activity or too many missed heartbeats"),
            "No activity or too many missed heartbeats",
        ),
        (exceptions.AMQPConnectionError(), "the connection was lost"),
        (OSError("it speaks HTTP, not AMQP"), "it speaks HTTP, not AMQP"),
    ],
)
def test_the_reason_is_in_the_words_of_rabbitmq_or_the_system(
    error: BaseException, words: str
) -> None:
    assert reason_of(error) == words


def test_a_limit_at_the_login_is_waited_for() -> None:
    error = translate(exceptions.ProbableAccessDeniedError(repr(LIMIT)), "mq:5672")

    assert isinstance(error, BrokerUnavailable)
    assert str(error) == f"RabbitMQ at mq:5672 has reached a limit: {LIMIT.reply_text}"


def test_a_link_that_breaks_in_the_login_is_no_refusal() -> None:
    error = translate(exceptions.ProbableAuthenticationError(repr(LOST)), "mq:5672")

    assert isinstance(error, BrokerUnavailable)
    assert "broke during the login: Connection reset by peer" in str(error)


def test_a_login_by_certificate_that_is_not_offered_says_what_to_turn_on() -> None:
    error = translate(exceptions.AuthenticationError("EXTERNAL"), "mq:5672")

    assert isinstance(error, BrokerRefused)
    assert "offers no login by EXTERNAL" in str(error)
    assert "rabbitmq_auth_mechanism_ssl" in str(error.hint)


@pytest.mark.parametrize(
    ("error", "of_the_login"),
    [
        (STACK_TIMEOUT, True),
        (exceptions.IncompatibleProtocolError(repr(LOST)), True),
        (exceptions.InvalidFrameError("Invalid FRAME_END"), True),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), False),
        (exceptions.ProbableAccessDeniedError(repr(LIMIT)), False),
        (REFUSED, False),
        (ConnectionResetError(104, "Connection reset by peer"), True),
    ],
)
def test_a_port_is_asked_only_where_nothing_was_said(
    error: BaseException, *, of_the_login: bool
) -> None:
    assert is_of_the_login(error) is of_the_login
