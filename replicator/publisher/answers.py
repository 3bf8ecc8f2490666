"""What went wrong, by pika's exceptions: RabbitMQ's code and words, and the error they mean.

pika wraps what happened several times, and writes exceptions into the text of others. Here it is
unwrapped, so that no person reads the inside of a library.
"""

import ast
import re
import ssl
from typing import Final

from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

from replicator.errors import BrokerRefused, BrokerUnavailable, ReplicatorError
from replicator.publisher.refusals import refusal_of

HINT_OF_LINK: Final = "look at RabbitMQ's log, and at the network in between"

# What pika makes of a connection that ends during the login, with the true one as text in it.
_GUESSED: Final = (
    exceptions.IncompatibleProtocolError,
    exceptions.ProbableAuthenticationError,
    exceptions.ProbableAccessDeniedError,
)
_OF_THE_LOGIN: Final = (
    *_GUESSED,
    AMQPConnectorStackTimeout,
    exceptions.ProtocolSyntaxError,
    ssl.SSLError,
    ConnectionError,
)
_CLOSED_BY_BROKER: Final = re.compile(r"ConnectionClosedByBroker: \((\d+)\) (['\"].*)", re.DOTALL)
_SYSTEM_ERROR: Final = re.compile(r"\w+\(-?\d+, (?P<quote>\\?['\"])(?P<words>.*?)(?P=quote)\)")
_HUNG_UP: Final = "the other side hung up"
_WORDS: Final = (
    (AMQPConnectorStackTimeout, "no answer to the login in time"),
    (TimeoutError, "no answer in time"),
    (exceptions.ConnectionWrongStateError, "the connection was lost"),
    (exceptions.ChannelWrongStateError, "the channel was lost"),
    (exceptions.ProtocolSyntaxError, "an answer that is not AMQP 0-9-1"),
    (ssl.SSLEOFError, _HUNG_UP),
    (ssl.SSLZeroReturnError, _HUNG_UP),
)


def translate(err: BaseException, where: str) -> ReplicatorError:
    """Return what an error of pika means; ``where`` is the host and port."""
    inner = innermost(err)
    if isinstance(inner, exceptions.AuthenticationError):
        return BrokerRefused(
            f"RabbitMQ at {where} offers no login by {inner.args[0]}",
            hint="allow it in RabbitMQ's auth_mechanisms; EXTERNAL, the login by certificate, "
            "takes the plugin rabbitmq_auth_mechanism_ssl",
        )
    reason = reason_of(inner)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return BrokerRefused(
            f"RabbitMQ at {where} has a certificate that cannot be trusted: {reason}",
            hint="check rabbitmq.tls_ca_file and the host name in rabbitmq.url",
        )
    code, text = said_by(inner)
    if (refusal := refusal_of(code, text)) is not None:
        return refusal.error(where, reason)
    # pika takes a link that breaks while it logs in for a refusal. RabbitMQ says so when it
    # refuses (it knows that pika understands); so this is only a link that broke.
    is_broken = isinstance(inner, _GUESSED) and not text
    during = " the link broke during the login:" if is_broken else ""
    return BrokerUnavailable(f"RabbitMQ at {where}:{during} {reason}", hint=HINT_OF_LINK)


def reason_of(err: BaseException) -> str:
    """Return in one line what happened, in RabbitMQ's words or the system's."""
    inner = innermost(err)
    text = said_by(inner)[1]
    if not text:
        text = str(inner)
        if words := [words for kind, words in _WORDS if isinstance(inner, kind)]:
            text = words[0]
        elif isinstance(inner, OSError):
            text = getattr(inner, "verify_message", "") or inner.strerror or text
        elif found := _SYSTEM_ERROR.search(text):
            text = found["words"]
        elif "indicated EOF" in text:
            text = _HUNG_UP
    return text.splitlines()[0] if text else "the connection was lost"


def is_of_the_login(err: BaseException) -> bool:
    """Return whether there was a connection, but no login, and RabbitMQ did not say why."""
    inner = innermost(err)
    if isinstance(inner, ssl.SSLCertVerificationError | ConnectionRefusedError):
        return False
    return isinstance(inner, _OF_THE_LOGIN) and not said_by(inner)[1]


def is_lost_socket(err: ValueError) -> bool:
    """Whether pika found a socket unconnected that had just been connected.

    pika 1.4 takes that for a wrong argument. It is a broker that ended in between: as RabbitMQ's
    port is when the node restarts (tests/unit/test_broker_that_ends.py).
    """
    return isinstance(err.__context__, OSError)


def said_by(err: BaseException) -> tuple[int, str]:
    """Return the code and the text that RabbitMQ closed with; 0 and nothing if it said none."""
    inner = innermost(err)
    if isinstance(inner, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return inner.reply_code, inner.reply_text
    if isinstance(inner, _GUESSED) and (found := _CLOSED_BY_BROKER.match(str(inner))):
        return int(found[1]), ast.literal_eval(found[2])
    return 0, ""


def innermost(err: BaseException) -> BaseException:
    """Return what pika's connection workflow has wrapped several times."""
    for _ in range(10):
        nested = getattr(err, "exception", None) or (err.args[0] if err.args else None)
        exceptions_of = getattr(nested, "exceptions", None) or getattr(err, "exceptions", None)
        if exceptions_of:
            nested = exceptions_of[-1]
        if not isinstance(nested, BaseException):
            break
        err = nested
    return err
