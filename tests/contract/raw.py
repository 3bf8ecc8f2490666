"""A connection that shows responses as the bytes that they are."""

import json
import struct
from types import TracebackType
from typing import Any, Self

from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from tests.support.rethink import driver_socket

_FRAME = struct.Struct("<QL")
START, CONTINUE, STOP, NOREPLY_WAIT, SERVER_INFO = 1, 2, 3, 4, 5


class Silence(Exception):  # no response is an observation, not an error
    """No response came in time."""


class RawConnection:
    """Sends queries and returns the JSON of responses, unread."""

    def __init__(self, host: str, port: int, user: str, password: str) -> None:
        """Let the driver lead the handshake, then use its socket."""
        self._driver = r.connect(host=host, port=port, user=user, password=password)
        self._socket = driver_socket(self._driver)
        self._token = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._driver.close(noreply_wait=False)

    def send(self, query: bytes, token: int | None = None) -> int:
        """Send a query's JSON text; return its token."""
        if token is None:
            self._token += 1
            token = self._token
        self._socket.sendall(_FRAME.pack(token, len(query)) + query)
        return token

    def start(self, term: Any, **options: Any) -> int:
        """Send START for a term of the driver."""
        text = f"[{START},{ReQLEncoder().encode(term)},{json.dumps(options)}]"
        return self.send(text.encode())

    def ask(self, token: int) -> None:
        """Send CONTINUE."""
        self.send(b"[%d]" % CONTINUE, token)

    def stop(self, token: int) -> None:
        """Send STOP."""
        self.send(b"[%d]" % STOP, token)

    def read(self, timeout: float = 10) -> bytes:
        """Return the JSON of the next response, whatever its token."""
        _, size = _FRAME.unpack(self._receive(_FRAME.size, timeout))
        return self._receive(size, timeout)

    def query(self, term: Any, **options: Any) -> bytes:
        """Run a query and return the JSON of its response."""
        self.start(term, **options)
        return self.read()

    def _receive(self, size: int, timeout: float) -> bytes:
        self._socket.settimeout(timeout)
        received = b""
        while len(received) < size:
            try:
                chunk = self._socket.recv(size - len(received))
            except TimeoutError as err:
                raise Silence from err
            if not chunk:
                raise ConnectionError("the server closed the connection")
            received += chunk
        return received
