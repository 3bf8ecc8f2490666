"""The one adapter of what the RethinkDB driver keeps private (rethinkdb 2.4.10).

The driver has no public way to:

- reach its socket. It sets no keepalive of its own (the kernel's begins after two hours), waits
  without limit for an answer and for the rest of a message, and forgets the socket without closing
  it when the peer is gone. So the socket is kept here, to be tuned, shut and closed.
- decode leniently. It decodes each response strictly, while RethinkDB keeps strings that are not
  UTF-8: a single one would end every changefeed of its table, again and again.
- wait very briefly. With a deadline that is over it polls its socket, and takes what TLS raises
  then for a lost connection.

Everything else goes through the driver's public interface. tests/unit/test_driver.py fails when
the driver changes any of this, or when its cursors ask for more (`Changefeed.ping`).
"""

import codecs
import contextlib
import socket
import time
from typing import Any, Final

from rethinkdb import errors as reql

_KEEPALIVE: Final = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 10),
    (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 5),
    (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 3),
    # Milliseconds that sent bytes may stay unacknowledged before the kernel gives up.
    (socket.TCP_USER_TIMEOUT, socket.IPPROTO_TCP, 30_000),
)
_SHORTEST_WAIT_SECONDS: Final = 0.001


def adopt(connection: Any) -> None:
    """Prepare a connection that the driver has just opened; `shut` and `close` need it."""
    wrapper = connection._instance._socket  # noqa: SLF001 - the driver shows none of it
    connection.kept_socket = wrapper._socket  # noqa: SLF001
    for option, level, value in _KEEPALIVE:
        connection.kept_socket.setsockopt(level, option, value)
    receive = wrapper.recvall

    def receive_payload(length: int, deadline: float | None) -> Payload:
        if deadline is not None:
            deadline = max(deadline, time.time() + _SHORTEST_WAIT_SECONDS)
        return Payload(receive(length, deadline))

    wrapper.recvall = receive_payload


def shut(connection: Any) -> None:
    """End a connection from any thread: whoever reads from it gets an error at once."""
    with contextlib.suppress(OSError):
        connection.kept_socket.shutdown(socket.SHUT_RDWR)


def close(connection: Any) -> None:
    """Close a connection without asking the server; never waits. Safe to repeat."""
    with contextlib.suppress(reql.ReqlError, OSError):
        connection.close(noreply_wait=False)
    connection.kept_socket.close()


def _written_as_escape(err: UnicodeError) -> tuple[str, int]:
    r"""Write a surrogate without its other half as JSON's escape of it, such as ``\\udc4b``.

    JavaScript makes such strings. RethinkDB takes them, even as keys, and sends the three bytes
    that UTF-8 would have for them if it allowed them.
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
    """What the server sent, which the driver decodes by calling `decode`."""

    __slots__ = ()

    def decode(self, encoding: str = "utf-8", errors: str = _ESCAPED) -> str:
        """Decode whatever it is; never raises."""
        return super().decode(encoding, errors)
