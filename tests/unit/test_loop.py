"""pika's loop, shared by threads: one at a time, and what is written goes at once."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from replicator.publisher.loop import EagerWrites, SharedLoop
from tests.support.wait import wait_until


class Turning:
    """A loop that turns on a thread of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.turns: list[bool] = []  # after each callback, whether the lock was held
        self.services = EagerWrites(self.lock, lambda: self.turns.append(self.lock.locked()))
        self.loop: SharedLoop = self.services.get_native_ioloop()  # type: ignore[assignment]
        self.thread = threading.Thread(target=self.services.run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.services.add_callback_threadsafe(self.services.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.services.close()


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def turning(pair: Pair) -> Iterator[Turning]:
    # It has to end before the sockets are closed that it reads from.
    del pair
    made = Turning()
    yield made
    made.stop()


def test_nothing_runs_while_somebody_else_has_the_lock(turning: Turning, pair: Pair) -> None:
    ours, theirs = pair
    ran: list[str] = []

    def set_up() -> None:
        turning.services.call_later(0.01, lambda: ran.append("later"))
        turning.services.set_reader(ours.fileno(), lambda: ran.append(str(ours.recv(9))))

    turning.services.add_callback_threadsafe(set_up)
    wait_until(lambda: ours.fileno() in turning.loop._poller._fd_handlers)
    with turning.lock:
        theirs.sendall(b"x")
        turning.services.add_callback_threadsafe(lambda: ran.append("soon"))
        time.sleep(0.1)
        held = list(ran)
    wait_until(lambda: {"later", "soon", "b'x'"} <= set(ran))

    assert "soon" not in held
    assert len(held) <= 1  # what had begun before the lock was taken


def test_a_turn_follows_whatever_the_loop_has_called(turning: Turning, pair: Pair) -> None:
    """With TLS, pika goes on reading in a callback: acks that come then must not wait either."""
    ours, theirs = pair
    did: list[tuple[str, int]] = []

    def note(what: str) -> Callable[[], None]:
        return lambda: did.append((what, len(turning.turns)))

    turning.services.add_callback_threadsafe(note("soon"))
    wait_until(lambda: len(did) == 1)
    turning.services.add_callback_threadsafe(
        lambda: turning.services.call_later(0.01, note("later"))
    )
    wait_until(lambda: len(did) == 2)

    def read() -> None:
        ours.recv(9)
        note("read")()

    turning.services.add_callback_threadsafe(
        lambda: turning.services.set_reader(ours.fileno(), read)
    )
    wait_until(lambda: ours.fileno() in turning.loop._poller._fd_handlers)
    theirs.sendall(b"x")
    wait_until(lambda: len(did) == 3)
    last = did[-1][1]
    wait_until(lambda: len(turning.turns) > last)

    # Two callbacks in between only set something up.
    assert did == [("soon", 0), ("later", 2), ("read", 4)]
    assert turning.turns == [True] * 5


def test_a_connection_that_is_found_lost_beside_the_loop_is_ended_by_the_loop(
    turning: Turning, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has heard of the end, and somebody else finds it before the loop has looked."""
    ours, theirs = pair
    fd = ours.fileno()
    has_heard, may_look = threading.Event(), threading.Event()
    dispatch = turning.loop._poller._dispatch_fd_events

    def look_later(events: dict[int, int]) -> None:
        if fd in events:
            has_heard.set()
            assert may_look.wait(20)
        dispatch(events)

    monkeypatch.setattr(turning.loop._poller, "_dispatch_fd_events", look_later)
    heard: list[bytes] = []
    turning.services.add_callback_threadsafe(
        lambda: turning.services.set_reader(fd, lambda: heard.append(ours.recv(9)))
    )
    wait_until(lambda: fd in turning.loop._poller._fd_handlers)
    theirs.close()
    assert has_heard.wait(20)

    def fail() -> None:
        # What pika does when a write fails.
        turning.services.remove_reader(fd)
        turning.services.remove_writer(fd)

    with turning.lock:
        turning.services.is_eager = True
        turning.services.set_writer(fd, fail)
        turning.services.is_eager = False
    may_look.set()
    wait_until(lambda: heard != [])
    turning.services.add_callback_threadsafe(lambda: turning.services.remove_reader(fd))
    wait_until(lambda: fd not in turning.loop._poller._fd_handlers)

    assert set(heard) == {b""}
    assert turning.thread.is_alive()


def sender(services: EagerWrites, sock: socket.socket, data: bytes) -> Callable[[], None]:
    """Return what pika writes with: as much as the socket takes, and no more calls at the end."""
    left = [data]

    def send() -> None:
        try:
            left[0] = left[0][sock.send(left[0]) :]
        except BlockingIOError:
            return
        if not left[0]:
            services.remove_writer(sock.fileno())

    return send


def test_what_is_written_eagerly_is_sent_before_the_call_returns(
    turning: Turning, pair: Pair
) -> None:
    ours, theirs = pair
    with turning.lock:
        turning.services.set_reader(ours.fileno(), lambda: None)
        turning.services.is_eager = True
        turning.services.set_writer(ours.fileno(), sender(turning.services, ours, b"at once"))
        assert theirs.recv(99) == b"at once"
        assert turning.services._watchers[ours.fileno()].writer is None
        turning.services.remove_reader(ours.fileno())


def test_what_the_socket_does_not_take_at_once_is_sent_by_the_loop(
    turning: Turning, pair: Pair
) -> None:
    ours, theirs = pair
    data = bytes(8 << 20)
    with turning.lock:
        turning.services.is_eager = True
        turning.services.set_writer(ours.fileno(), sender(turning.services, ours, data))
        turning.services.is_eager = False
    received = 0
    theirs.settimeout(20)
    while received < len(data):
        received += len(theirs.recv(1 << 20))

    wait_until(lambda: ours.fileno() not in turning.loop._poller._fd_handlers)
    assert received == len(data)


def test_nothing_is_written_before_its_time_while_a_connection_is_opened(
    turning: Turning, pair: Pair
) -> None:
    """A socket that is being connected can be written only when the loop says so."""
    ours, _ = pair
    called: list[bool] = []

    def connected() -> None:
        called.append(turning.lock.locked())
        turning.services.remove_writer(ours.fileno())

    with turning.lock:
        turning.services.set_writer(ours.fileno(), connected)
        assert called == []
    wait_until(lambda: called == [True])
