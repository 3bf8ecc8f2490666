"""Who gets in, and what the others are told."""

import json
import socket
import struct
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlAuthError

from tests.contract.conftest import Connect, Server
from tests.contract.eventually import allowed, denied
from tests.contract.raw import RawConnection

_V1_0 = struct.pack("<L", 0x34C2BDC3)
_FIRST = {
    "protocol_version": 0,
    "authentication_method": "SCRAM-SHA-256",
    "authentication": "n,,n=admin,r=abcdefgh",
}


def _talk(server: Server, *messages: bytes, replies: int) -> list[Any]:
    """Send messages and return the zero-terminated replies, read as JSON where they are."""
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(b"".join(messages))
        received = b""
        while received.count(b"\0") < replies:
            chunk = connection.recv(4096)
            assert chunk, received
            received += chunk
    texts = received.split(b"\0")[:replies]
    return [json.loads(text) if text.startswith(b"{") else text.decode() for text in texts]


def _message(**changes: Any) -> bytes:
    return json.dumps({**_FIRST, **changes}).encode() + b"\0"


def test_admin_without_a_password_gets_in(conn: Any) -> None:
    assert r.expr(1).run(conn) == 1


def test_a_user_with_a_password_gets_in(connect: Connect, user: str) -> None:
    assert r.expr(1).run(connect(user=user, password="secret")) == 1


def test_a_changed_password_replaces_the_old_one(connect: Connect, conn: Any, user: str) -> None:
    r.db("rethinkdb").table("users").get(user).update({"password": "other"}).run(conn)
    assert r.expr(1).run(allowed(lambda: connect(user=user, password="other"))) == 1
    assert "Wrong password" in denied(lambda: connect(user=user, password="secret"))


def test_a_wrong_password_is_an_authentication_error(connect: Connect, user: str) -> None:
    with pytest.raises(ReqlAuthError, match="Wrong password"):
        connect(user=user, password="wrong")


def test_an_unknown_user_is_an_authentication_error(connect: Connect) -> None:
    with pytest.raises(ReqlAuthError, match="Unknown user"):
        connect(user="nobody", password="secret")


def test_the_server_says_its_protocol_versions_first(server: Server) -> None:
    (hello,) = _talk(server, _V1_0, replies=1)
    assert hello["success"] is True
    assert (hello["min_protocol_version"], hello["max_protocol_version"]) == (0, 0)
    assert isinstance(hello["server_version"], str)


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (_message(protocol_version="x"), 1, "Expected a number for `protocol_version`."),
        (_message(protocol_version=3), 2, "Unsupported `protocol_version`."),
        (_message(authentication_method=1), 3, "Expected a string for `authentication_method`."),
        (_message(authentication_method="x"), 4, "Unsupported `authentication_method`."),
        (_message(authentication=1), 5, "Expected a string for `authentication`."),
        (b"{bad\0", 8, "Invalid JSON object."),
        (_message(authentication="y,,n=admin,r=a"), 15, "Channel binding is not supported"),
        (_message(authentication="n,,zzz"), 10, "Invalid encoding"),
    ],
)
def test_a_bad_first_message_is_answered_by_its_error_code(
    server: Server, message: bytes, code: int, text: str
) -> None:
    _, refusal = _talk(server, _V1_0, message, replies=2)
    assert refusal == {"success": False, "error_code": code, "error": text}


def test_a_wrong_proof_is_error_12(server: Server) -> None:
    proof = json.dumps({"authentication": "c=biws,r=abcdefghzz,p=AAAA"}).encode() + b"\0"
    *_, refusal = _talk(server, _V1_0, _message(), proof, replies=3)
    assert refusal == {"success": False, "error_code": 12, "error": "Wrong password"}


def test_another_protocol_is_told_what_this_port_is(server: Server) -> None:
    (text,) = _talk(server, b"GET / HTTP/1.1\r\n\r\n", replies=1)
    assert text.startswith("ERROR: Received an unsupported protocol version.")


def test_the_server_tells_who_it_is(conn: Any, raw: RawConnection) -> None:
    info = conn.server()
    assert set(info) == {"id", "name", "proxy"}
    assert info["proxy"] is False
    raw.send(b"[5]")
    assert raw.read().startswith(b'{"t":5,"r":[{"id":"')


def test_noreply_queries_are_done_when_noreply_wait_returns(conn: Any, table: Any) -> None:
    for number in range(20):
        table.insert({"id": number}).run(conn, noreply=True)
    conn.noreply_wait()
    assert table.count().run(conn) == 20


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (b"{bad", b'"r":["Client is buggy (failed to deserialize query)."]'),
        (b"[99]", b"Unrecognized QueryType: 99."),
        (b"[2]", b" not in stream cache."),
        (b"[3]", b" not in stream cache."),
    ],
)
def test_a_query_that_breaks_the_protocol_is_a_client_error(
    raw: RawConnection, query: bytes, answer: bytes
) -> None:
    raw.send(query)
    response = raw.read()
    assert response.startswith(b'{"t":16,')
    assert answer in response
    assert raw.query(r.expr(1)) == b'{"t":1,"r":[1]}'
