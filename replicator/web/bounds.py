"""What one client may take of the HTTP server: bytes of a request, time for it, a connection.

A client that sends a byte now and then keeps within any timeout of a single read, so the time is
counted over the whole request.
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

MOST_REQUEST_BYTES: Final = 16 * 1024
REQUEST_SECONDS: Final = 10.0
REPLY_SECONDS: Final = 10.0
MOST_CONNECTIONS: Final = 32

# What is still on its way when the answer was sent: closing over unread bytes would reset the
# connection, and the client might never see the answer.
_MOST_UNREAD_BYTES: Final = 64 * 1024
_UNREAD_SECONDS: Final = 1.0
_ROOM_SECONDS: Final = 2.0


class RequestRefused(Exception):
    """A request is too large or too slow; ``status`` is the answer."""

    def __init__(self, status: HTTPStatus) -> None:
        """Keep the status."""
        super().__init__(status.phrase)
        self.status = status


class BoundedReader(io.RawIOBase):
    """Reads a request from a socket until it has used up its bytes or its time."""

    def __init__(self, sock: socket.socket, *, most_bytes: int, seconds: float) -> None:
        """Start the clock."""
        self._socket = sock
        self._left = most_bytes
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read what there is.

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
    """Take what a client still sends after its answer, within small bounds.

    Raises:
        OSError: the connection is lost, which no longer matters.
    """
    deadline = time.monotonic() + _UNREAD_SECONDS
    left = _MOST_UNREAD_BYTES
    sock.shutdown(socket.SHUT_WR)
    while left > 0 and (seconds := deadline - time.monotonic()) > 0:
        sock.settimeout(seconds)
        received = len(sock.recv(min(left, 8192)))
        if not received:
            return
        left -= received


class Connections:
    """The open connections: never more than so many, and the oldest makes room for a new one.

    Whoever opens many and sends nothing would else keep the probes out, and be the reason that
    a healthy service is started again.
    """

    def __init__(self, most: int) -> None:
        """Allow so many at a time."""
        self._slots = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}  # in the order of their coming

    def __len__(self) -> int:
        """Count the open ones."""
        return len(self._open)

    def add(self, sock: socket.socket) -> None:
        """Take in a connection, once there is room for it.

        Raises:
            OSError: there was none in time, since no open connection could be ended.
        """
        if not self._slots.acquire(blocking=False):
            self._shut_oldest()
            # Whoever serves it notices at once that it was shut, and removes it; unless it is
            # busy with an answer, for which nobody else may have to wait.
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
        # Critical section: outside of it the socket could be closed, and its number be another's.
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest is not None:
                with contextlib.suppress(OSError):  # its client was faster
                    oldest.shutdown(socket.SHUT_RDWR)
