"""What a port seems to speak, by what it answers."""

import pytest

from replicator.domain.greeting import AMQP, MAX_BYTES, seems_to_speak


@pytest.mark.parametrize(
    ("answer", "spoken"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n", "HTTP"),
        (b"AMQP\x00\x00\x09\x01", AMQP),
        (b"\x15\x03\x01\x00\x02\x02", "TLS"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
        (b"RethinkDB cluster\n\x05\x00", "the protocol of RethinkDB's cluster"),
        (
            b"ERROR: Received an unsupported protocol version. This port is for RethinkDB queries.",
            "RethinkDB's protocol of queries",
        ),
        (b"220 mail.example ESMTP\r\n\x1b[31m", "another protocol ('220 mail.example ESMTP')"),
        (b"\x1b]0;title\x07", "another protocol"),
        (b"x" * MAX_BYTES, f"another protocol ('{'x' * 40}')"),
    ],
)
def test_the_first_bytes_tell(answer: bytes, spoken: str) -> None:
    assert seems_to_speak(answer) == spoken
