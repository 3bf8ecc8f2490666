"""What one client may use of the HTTP server: bytes and time of a request, connections.

A client that sends a byte now and then stays within the timeout of any single read, so the time
is counted over the whole request.
"""

import contextlib
import io
import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_REQUEST_BYTES: Final = 16 * 1024
REQUEST_SECONDS: Final = 10.0
REPLY_SECONDS: Final = 10.0
MAX_CONNECTIONS: Final = 32

# To close a socket with unread bytes resets the connection, and the client might never see the
# answer: so what is still on its way is read, up to this.
_MAX_UNREAD_BYTES: Final = 64 * 1024
_UNREAD_SECONDS: Final = 1.0
_ROOM_SECONDS: Final = 2.0


class RequestRefused(Exception):
    """A request was too large or too slow; answered with ``status``."""

    def __init__(self, status: HTTPStatus) -> None:
        """Keep the status."""
        super().__init__(status.phrase)
        self.status = status


class BoundedReader(io.RawIOBase):
    """Reads one request from a socket, up to a number of bytes and within a time."""

    def __init__(self, sock: socket.socket, *, max_bytes: int, seconds: float) -> None:
        """Start the clock."""
        self._socket = sock
        self._left = max_bytes
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read what has arrived.

        Raises:
            RequestRefused: the request is too large or too slow.
            OSError: the connection is lost.
        """
        if self._left <= 0:
            raise RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT)
        self._socket.settimeout(seconds)
        try:
            count = self._socket.recv_into(memoryview(buffer)[: self._left])
        except TimeoutError:
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT) from None
        self._left -= count
        return count


def read_to_end(sock: socket.socket) -> None:
    """Read what a client still sends after its answer, within small bounds.

    Raises:
        OSError: the connection is lost, which no longer matters.
    """
    deadline = time.monotonic() + _UNREAD_SECONDS
    left = _MAX_UNREAD_BYTES
    sock.shutdown(socket.SHUT_WR)
    while left > 0 and (seconds := deadline - time.monotonic()) > 0:
        sock.settimeout(seconds)
        received = len(sock.recv(min(left, 8192)))
        if not received:
            return
        left -= received


class Connections:
    """The open connections, bounded: the oldest makes room for a new one.

    Without the bound, a client that opens many and sends nothing would keep the probes out, and a
    healthy service would be restarted.
    """

    def __init__(self, max_open: int) -> None:
        """Allow this many at a time."""
        self._slots = threading.BoundedSemaphore(max_open)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}  # in order of arrival

    def __len__(self) -> int:
        """Count the open ones."""
        return len(self._open)

    def add(self, sock: socket.socket) -> None:
        """Add a connection once there is room for it; end the oldest if there is none.

        Raises:
            OSError: no open connection could be ended in time.
        """
        if not self._slots.acquire(blocking=False):
            self._shut_oldest()
            # The thread that serves it notices at once and removes it, unless it is sending an
            # answer; the others must not wait for that.
            if not self._slots.acquire(timeout=_ROOM_SECONDS):
                raise OSError("no connection could be ended to make room for this one")
        with self._lock:
            self._open[sock] = None

    def remove(self, sock: socket.socket) -> None:
        """Forget a connection before it is closed; safe to repeat."""
        with self._lock:
            if sock not in self._open:
                return
            del self._open[sock]
        self._slots.release()

    def _shut_oldest(self) -> None:
        # Critical section: without the lock the socket could be closed, and its file descriptor
        # belong to another connection.
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest is not None:
                with contextlib.suppress(OSError):  # its client was faster
                    oldest.shutdown(socket.SHUT_RDWR)
