"""The one adapter of pika's private parts: three things that it has no public way to do.

- To send frames that are already made. `basic_publish` makes several objects and three system calls
  of each message: nearly as much processor time as all else that is done with a change
  (docs/performance.md).
- To close the socket of a connection whose orderly close has no answer. Left open, it would keep
  the fence, and with it the next connection, out until the heartbeat ends it at the broker.
- To end a blocking connection that waits for an answer: pika waits for ever, and runs its own
  timers only when the answer is there.

tests/unit/test_frames.py and tests/integration/test_publisher_connection.py fail when pika changes
one of them.
"""

from typing import Any

import pika
from pika import exceptions


def send(connection: pika.SelectConnection, frames: bytes) -> None:
    """Send frames in one write; the connection must be open. On its loop's thread only.

    It is what pika's own publish ends in, and keeps the byte count that heartbeats look at.
    """
    connection._output_marshaled_frames([frames])  # type: ignore[attr-defined]  # noqa: SLF001


def close_socket(connection: pika.SelectConnection) -> None:
    """Bring an open connection down, as pika's heartbeat does; `on_close_callback` follows."""
    connection._adapter_disconnect_stream()  # type: ignore[attr-defined]  # noqa: SLF001


def give_up_after(connection: pika.BlockingConnection, seconds: float) -> None:
    """End a connection that is still open in ``seconds``: whoever waits for it gets an error."""
    error = exceptions.AMQPConnectionError(f"no answer in {seconds:g} seconds")
    inner: Any = connection._impl  # type: ignore[attr-defined]  # noqa: SLF001
    inner._adapter_call_later(seconds, lambda: inner._terminate_stream(error))  # noqa: SLF001
