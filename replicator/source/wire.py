"""What goes over a connection of the driver's, where the driver does more for it than it must.

A response with a single change costs the driver nine system calls, and several times the Python
that decoding it does (docs/performance.md). Its cursors stay what they are; what they read with and
ask for more with is replaced.
"""

import codecs
import contextlib
import math
import socket
import ssl
import struct
import time
from typing import Any, Final

from rethinkdb import errors as reql

_READ_BYTES: Final = 64 * 1024
# Behind a response as large as this there is mostly more.
_LARGE_BYTES: Final = 64 * 1024
_STEP_SECONDS: Final = 0.1
# The wire protocol: a query is its token, its length and its JSON, and 2 stands for CONTINUE
# (ql2.proto, Query.QueryType).
_CONTINUE: Final = b"[2]"
_query_start = struct.Struct("<QL").pack
# Where a long has 32 bits, what the kernel expects depends on how the C library was built.
_timeval = struct.Struct("@ll").pack
_IS_TIMEVAL_KNOWN: Final = struct.calcsize("@l") == 8


def _written_as_escape(err: UnicodeError) -> tuple[str, int]:
    r"""Write a surrogate without its other half as JSON's escape of it, such as ``\\udc4b``.

    JavaScript makes such strings and RethinkDB takes them, also as keys, and sends the three
    bytes that UTF-8 would have for them if it allowed them.
    """
    if not isinstance(err, UnicodeDecodeError):
        raise err
    sent = err.object[err.start : err.start + 3]
    try:
        return f"\\u{ord(sent.decode('utf-8', 'surrogatepass')):04x}", err.start + 3
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}", err.end


_ESCAPED: Final = "replicator.surrogates"
codecs.register_error(_ESCAPED, _written_as_escape)


class Payload(bytes):
    """What the server sent; the driver decodes it strictly, and would let a reader die of it."""

    __slots__ = ()

    def decode(self, encoding: str = "utf-8", errors: str = _ESCAPED) -> str:
        """Decode whatever it is: never raises."""
        return super().decode(encoding, errors)


class Wire:
    """An open connection of the driver's, which reads and asks the short way from now on."""

    def __init__(self, connection: Any) -> None:
        """Replace what the driver's cursors read and ask with."""
        self._connection = connection
        self._socket = connection._instance._socket  # noqa: SLF001 - the driver shows none of it
        is_tls = isinstance(self._socket._socket, ssl.SSLSocket)  # noqa: SLF001
        is_short = not is_tls and _IS_TIMEVAL_KNOWN
        self._receive = _Received(self._socket).take if is_short else self._socket.recvall
        self._taken = 0
        self._cursor: Any = None
        self._socket.recvall = self._take
        connection._continue = self._continue  # noqa: SLF001

    def ask_for_more(self) -> bool:
        """Send the request that a cursor has put off, if there is one; whether so.

        Whoever waits for an answer does this first.

        Raises:
            ReqlDriverError: the connection is closed.
        """
        cursor, self._cursor = self._cursor, None
        if cursor is None:
            return False
        self._connection.check_open()
        self._socket.sendall(_query_start(cursor.query.token, len(_CONTINUE)) + _CONTINUE)
        return True

    def _take(self, length: int, deadline: float | None) -> Payload:
        self.ask_for_more()
        taken = Payload(self._receive(length, deadline))
        self._taken = length
        return taken

    def _continue(self, cursor: Any) -> None:
        """Ask for what comes after the response that was just taken, now or later.

        A request wakes the server, which takes the processor from whoever has changes to hand
        over. Asked when they are handed over, it answers with all that has come until then; behind
        a large response it prepares the next one meanwhile.
        """
        self.ask_for_more()  # of another cursor; there is none where one is read at a time
        self._cursor = cursor
        if self._taken > _LARGE_BYTES:
            # The response itself is whole: that there will be none after it is the next one's news.
            with contextlib.suppress(reql.ReqlDriverError):
                self.ask_for_more()


class _Received:
    """What came over a socket and was not taken yet: read with one call, whatever is there.

    The driver asks for 12 bytes and then for the rest, each with four calls: two that say how long
    to wait. Here the kernel is told once. With TLS the driver's way stays: there it is not the
    kernel who knows what is there.
    """

    def __init__(self, wrapper: Any) -> None:
        """Take over the reading from the driver's wrapper of a socket."""
        self._wrapper = wrapper
        self._socket: socket.socket = wrapper._socket  # noqa: SLF001
        self._socket.settimeout(None)
        self._patience = 0.0
        self._bytes = bytearray()

    def take(self, length: int, deadline: float | None) -> bytes:
        """Return so many bytes; waits for the first of them until a deadline of ``time.time``.

        Once something is there, the rest is waited for without limit, as the driver does: the
        watchdog shuts the socket.

        Raises:
            ReqlTimeoutError: nothing came; ask again.
            ReqlDriverError: the connection has ended.
        """
        received = self._bytes
        while len(received) < length:
            received += self._read(length - len(received), None if received else deadline)
        taken = bytes(memoryview(received)[:length])
        del received[:length]
        return taken

    def _read(self, wanted: int, deadline: float | None) -> bytes:
        while True:
            try:
                flags = 0 if deadline is None else self._bounded(deadline - time.time())
                read = self._socket.recv(max(wanted, _READ_BYTES), flags)
            except BlockingIOError:
                if deadline is None:
                    continue  # as long as it waited last
                raise reql.ReqlTimeoutError(self._wrapper.host, self._wrapper.port) from None
            except OSError as err:
                self._wrapper.close()
                raise reql.ReqlDriverError(f"Connection interrupted: {err}") from err
            if not read:
                self._wrapper.close()
                raise reql.ReqlDriverError("Connection is closed.")
            return read

    def _bounded(self, seconds: float) -> int:
        """Let the next read wait so long, or a tenth of a second longer; returns its flags."""
        if seconds <= 0:
            return socket.MSG_DONTWAIT
        patience = math.ceil(seconds / _STEP_SECONDS) * _STEP_SECONDS
        # Nearly always as long as last time: then the kernel knows.
        if patience != self._patience:
            self._patience = patience
            timeval = _timeval(int(patience), int(patience % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        return 0
