"""Asks a port what it speaks, after a login there has failed: it may be another server's.

RabbitMQ itself, if it is only slow, is asked too: it answers with its protocol's name, and logs a
connection with a wrong header.
"""

import socket
import ssl
from collections.abc import Mapping
from typing import Final

from replicator.domain.greeting import AMQP, MAX_BYTES, REQUEST, TLS, seems_to_speak

_SECONDS: Final = 3.0
_BY_PORT: Final[Mapping[int, str]] = {
    4369: " (4369 is where Erlang's nodes find each other)",
    25672: " (25672 is RabbitMQ's port for its own cluster and tools)",
}


def what_answers(host: str, port: int, *, is_tls: bool) -> str:
    """Return in words what seems to answer at a port; empty if RabbitMQ does, as it should.

    Takes a few seconds at most. Never raises for what a server does.
    """
    try:
        answer = _answer(host, port)
        if answer is None:
            return f"it takes connections and says nothing{_BY_PORT.get(port, '')}"
        if answer and seems_to_speak(answer) != TLS:
            without_tls = "it speaks AMQP without TLS: use amqp://" if is_tls else ""
            return _not_amqp(answer) or without_tls
        context = _trusting_context()
        if not _speaks_tls(host, port, context):
            return f"it hangs up{_BY_PORT.get(port, '')}"
        return _not_amqp(_answer(host, port, context)) if is_tls else "it speaks TLS: use amqps://"
    except OSError:
        return "it takes no connection"


def _not_amqp(answer: bytes | None) -> str:
    spoken = seems_to_speak(answer) if answer else AMQP
    return "" if spoken == AMQP else f"it speaks {spoken}, not AMQP"


def _answer(host: str, port: int, context: ssl.SSLContext | None = None) -> bytes | None:
    """Return how the answer begins; empty if it hangs up; None if it says nothing in time.

    Raises:
        OSError: there is no connection.
    """
    with socket.create_connection((host, port), _SECONDS) as plain:
        try:
            with context.wrap_socket(plain) if context else plain as link:
                link.sendall(REQUEST)
                return link.recv(MAX_BYTES)
        except TimeoutError:
            return None
        except OSError:
            return b""


def _speaks_tls(host: str, port: int, context: ssl.SSLContext) -> bool:
    try:
        with socket.create_connection((host, port), _SECONDS) as plain:
            context.wrap_socket(plain).close()
    except OSError:
        return False
    return True


def _trusting_context() -> ssl.SSLContext:
    """Return a context that verifies nothing: all that is sent is a question without secrets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
