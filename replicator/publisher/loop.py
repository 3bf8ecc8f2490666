"""pika's loop, shared: its callbacks run under a lock, and who has the lock may do its work too.

A change that was just committed need not wait until another thread wakes up and sends it: the
thread that has committed it takes the lock and does (docs/performance.md). pika is not thread-safe,
but it runs nothing except callbacks that it has handed to its loop. What the loop does between them
is not under the lock: see `EagerWrites`.
"""

import threading
from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter


class SharedLoop(IOLoop):
    """A loop whose callbacks all run under one lock."""

    def __init__(self, lock: threading.Lock, after_each: Callable[[], None]) -> None:
        """Share this lock, which is none that its holder may take twice.

        ``after_each`` is called after each callback, under the lock.
        """
        self._lock = lock
        self._after_each = after_each
        super().__init__()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        """Run a callback after so many seconds; on the loop's thread only."""
        return super().call_later(delay, self._alone(callback))

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """Run a callback soon; from any thread."""
        super().add_callback_threadsafe(self._alone(callback))

    add_callback = add_callback_threadsafe

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Call a handler when something can be done with a file descriptor."""
        super().add_handler(fd, self._alone(handler), events)

    def _alone(self, callback: Callable[..., object]) -> Callable[..., None]:
        def run(*arguments: int) -> None:
            with self._lock:
                callback(*arguments)
                self._after_each()

        return run


class EagerWrites(SelectorIOServicesAdapter):
    """What pika does input and output with; can send at once what is written.

    pika itself waits until the loop says that the socket takes bytes, which it nearly always does.
    While it is eager, on whatever thread, nothing is ever taken out of the loop: its thread may
    just have heard of a file descriptor and be about to look up what to do with it.
    """

    def __init__(self, lock: threading.Lock, after_each: Callable[[], None]) -> None:
        """Make a `SharedLoop` of these."""
        loop: Any = SharedLoop(lock, after_each)  # a loop is generic, but for type checkers only
        super().__init__(loop)
        self.is_eager = False
        """Whether to try before waiting: not while a connection is being opened."""
        self._is_all_sent = False

    def set_writer(self, fd: int, on_writable: Callable[[], None]) -> None:
        """Let a callback write, which removes itself when nothing is left."""
        if self.is_eager:
            self._is_all_sent = False
            on_writable()
            if self._is_all_sent:
                return
        super().set_writer(fd, on_writable)

    def remove_writer(self, fd: int) -> bool:
        """Forget the callback; whether there was one."""
        if self.is_eager:
            self._is_all_sent = True  # or there is no connection any more
            return True
        return bool(super().remove_writer(fd))

    def remove_reader(self, fd: int) -> bool:
        """Forget the callback; whether there was one."""
        # Race: a connection that is found lost while it is written to. It ends with its loop, and
        # ignores until then what is still read.
        return self.is_eager or bool(super().remove_reader(fd))
