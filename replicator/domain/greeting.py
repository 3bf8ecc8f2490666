"""What a port seems to speak, by the first bytes of its answer to a request of HTTP."""

import re
from typing import Final

REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"
"""What each of them answers at once: HTTP servers with a page, AMQP and RethinkDB with an error."""

MAX_BYTES: Final = 256
"""How many bytes of an answer tell what it is: RethinkDB names itself late."""

AMQP: Final = "AMQP, RabbitMQ's protocol"
RETHINKDB: Final = "RethinkDB's protocol of queries"
TLS: Final = "TLS"

_BY_START: Final = (
    (b"HTTP/", "HTTP"),
    (b"AMQP", AMQP),
    (b"RethinkDB cluster", "the protocol of RethinkDB's cluster"),
    (b"SSH-", "SSH"),
    (b"\x15\x03", TLS),
)
_PRINTABLE: Final = re.compile(r"[ -~]+")
_MAX_SHOWN: Final = 40


def seems_to_speak(answer: bytes) -> str:
    """Return in words what is spoken where this was answered."""
    for start, words in _BY_START:
        if answer.startswith(start):
            return words
    if b"RethinkDB" in answer:
        return RETHINKDB
    # Strangers' bytes may have line ends and escape sequences.
    said = _PRINTABLE.match(answer.decode("latin-1"))
    return f"another protocol ({said[0][:_MAX_SHOWN]!r})" if said else "another protocol"
