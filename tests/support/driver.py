"""The real driver over a simulated socket, so that a test can play the server."""

import json
import struct
from typing import Any

from rethinkdb import errors as reql
from rethinkdb import net
from rethinkdb.ql2_pb2 import Query, Response

PARTIAL: int = Response.ResponseType.SUCCESS_PARTIAL
ATOM: int = Response.ResponseType.SUCCESS_ATOM
ABORTED: int = Response.ResponseType.RUNTIME_ERROR
CONTINUE: int = Query.QueryType.CONTINUE


class SimulatedSocket:
    """Replaces the driver's own wrapper of a socket; tests override `sent` and `wait`."""

    host, port = "127.0.0.1", 28015

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False

    def sent(self, kind: int, token: int) -> None:
        """Receive a request."""

    def wait(self) -> bool:
        """Let time pass while the driver waits. Returns whether it may go on waiting."""
        return False

    def sendall(self, data: bytes) -> None:
        if self.is_closed:
            raise reql.ReqlDriverError("Connection is closed.")
        token, length = struct.unpack_from("<QL", data)
        assert len(data) == 12 + length
        self.sent(json.loads(data[12:])[0], token)

    def recvall(self, length: int, deadline: float | None) -> bytes:
        while len(self.received) < length:
            if self.is_closed:
                raise reql.ReqlDriverError("Connection is closed.")
            if not self.wait() and deadline is not None:
                raise reql.ReqlTimeoutError(self.host, self.port)
        taken, self.received = self.received[:length], self.received[length:]
        return taken

    def is_open(self) -> bool:
        return not self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def respond(self, token: int, kind: int, elements: list[Any]) -> None:
        """Make a response arrive."""
        body = json.dumps({"t": kind, "e": 4100000, "r": elements}).encode()
        self.received += struct.pack("<QL", token, len(body)) + body


def connection_over(wrapper: SimulatedSocket) -> Any:
    """Return an open connection of the driver over a simulated socket."""
    connection = net.DefaultConnection(
        wrapper.host, wrapper.port, None, None, "admin", "", 20, {}, 10
    )
    connection._instance = net.ConnectionInstance(connection)
    connection._instance._socket = wrapper
    return connection
