"""The proxy that stands for the network in the fault tests."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import TcpProxy


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def proxy(server: socket.socket) -> Iterator[TcpProxy]:
    with TcpProxy(server.getsockname()[1]) as proxy:
        yield proxy


@pytest.fixture
def ends(server: socket.socket, proxy: TcpProxy) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's and the server's end of one connection through the proxy."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(10)
            yield client, accepted


Ends = tuple[socket.socket, socket.socket]


def receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += end.recv(count - len(data))
    return data


def is_silent(end: socket.socket) -> bool:
    end.settimeout(0.1)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(10)
    return False


def test_bytes_pass_both_ways_and_so_does_the_end(ends: Ends, proxy: TcpProxy) -> None:
    client, server = ends
    client.sendall(b"question")
    assert receive(server, 8) == b"question"
    server.sendall(b"answer")
    assert receive(client, 6) == b"answer"

    server.close()

    assert client.recv(1) == b""
    assert proxy.connections == 1


def test_a_deaf_proxy_keeps_the_sockets_and_delivers_when_healed(
    ends: Ends, proxy: TcpProxy
) -> None:
    client, server = ends
    proxy.go_deaf()

    payload = b"x" * 5_000_000  # more than the kernel's buffers: the proxy takes it all
    client.sendall(payload)
    server.sendall(b"answer")
    assert is_silent(server)
    assert is_silent(client)

    proxy.heal()
    assert receive(server, len(payload)) == payload
    assert receive(client, 6) == b"answer"


def test_a_proxy_may_be_deaf_in_one_direction(ends: Ends, proxy: TcpProxy) -> None:
    client, server = ends
    proxy.go_deaf("to_client")

    client.sendall(b"question")
    assert receive(server, 8) == b"question"
    server.sendall(b"answer")

    assert is_silent(client)


def test_a_connection_made_while_deaf_opens_and_stays_silent(
    server: socket.socket, proxy: TcpProxy
) -> None:
    proxy.go_deaf()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert is_silent(client)


def test_a_cut_resets_both_ends(ends: Ends, proxy: TcpProxy) -> None:
    proxy.cut()

    for end in ends:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert proxy.open_connections == 0


def test_an_abandoned_connection_is_lost_to_the_client_alone(ends: Ends, proxy: TcpProxy) -> None:
    client, server = ends
    client.sendall(b"x")
    assert receive(server, 1) == b"x"

    proxy.abandon()

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    server.sendall(b"anybody there?")
    assert is_silent(server)
    assert proxy.open_connections == 0


def test_a_cut_after_some_bytes_ends_in_the_middle_of_a_message(
    ends: Ends, proxy: TcpProxy
) -> None:
    client, server = ends
    proxy.cut_after(3)

    server.sendall(b"message")

    assert receive(client, 3) == b"mes"
    assert client.recv(1) == b""


def test_a_refusing_proxy_keeps_what_is_open(ends: Ends, proxy: TcpProxy) -> None:
    client, server = ends
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    client.sendall(b"still here")
    assert receive(server, 10) == b"still here"

    proxy.heal()
    socket.create_connection(("127.0.0.1", proxy.port), timeout=10).close()


def test_a_slow_proxy_delivers_everything_in_its_time(ends: Ends, proxy: TcpProxy) -> None:
    client, server = ends
    proxy.slow(1000, "to_server")
    client.sendall(b"x" * 300)

    arrived = threading.Event()

    def read() -> None:
        receive(server, 300)
        arrived.set()

    reader = threading.Thread(target=read)
    reader.start()

    assert not arrived.wait(0.15)
    assert arrived.wait(10)
    reader.join()


def test_an_unreachable_target_resets_the_client(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()

    # The reset comes when the client reads, or already while it connects.
    with (
        TcpProxy(port) as proxy,
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
    ):
        client.recv(1)
