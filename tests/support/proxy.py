"""A TCP proxy that fails on demand: the network between the replicator and a server.

Any thread may call it; each call has taken effect when it returns.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self

from tests.support.ports import free_port

Direction = Literal["both", "to_server", "to_client"]

_CHUNK = 65536
# The bytes to read, and so to acknowledge, from a peer whose data is not forwarded.
_HELD_BYTES = 64 * 2**20
_CALL_SECONDS = 10
_CONNECT_SECONDS = 5
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_Link = tuple[asyncio.StreamWriter, asyncio.StreamWriter]  # to the client, to the server


class _Way:
    """What happens to the bytes in one direction."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.heal()

    def heal(self) -> None:
        self.is_open.set()
        self.bytes_per_second: int | None = None
        self.bytes_until_cut: int | None = None


class TcpProxy:
    """Listens on a loopback port of its own and forwards to ``target_port``."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.connections = 0
        self._target = (target_host, target_port)
        self._accepted: set[socket.socket] = set()  # not yet connected to the target
        self._links: set[_Link] = set()
        self._abandoned: set[asyncio.StreamWriter] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(_CALL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_CALL_SECONDS)

    @property
    def open_connections(self) -> int:
        """The number of clients that are connected through the proxy."""
        return len(self._links)

    def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Refuse new connections; open ones stay open."""
        self._call(self._stop_listening)

    def abandon(self) -> None:
        """Reset the clients' ends of all connections; the server does not notice.

        The server's ends stay open and silent, as when a machine has lost its power. What the
        server still sends is dropped; they are closed with the proxy, or by the server.
        """
        self._call(self._abandon)

    def go_deaf(self, direction: Direction = "both") -> None:
        """Forward nothing, not even an end: sockets stay open, and bytes are acknowledged.

        What arrived meanwhile is forwarded by `heal`, as after a real partition.
        """
        self._change(direction, lambda way: way.is_open.clear())

    def cut_after(self, count: int, direction: Direction = "to_client") -> None:
        """Forward ``count`` more bytes, then close the connection in the middle of a message."""
        self._change(direction, lambda way: setattr(way, "bytes_until_cut", count))

    def slow(self, bytes_per_second: int, direction: Direction = "both") -> None:
        """Forward no faster than this."""
        self._change(direction, lambda way: setattr(way, "bytes_per_second", bytes_per_second))

    def heal(self) -> None:
        """Forward and accept everything again."""

        async def heal() -> None:
            for way in self._ways.values():
                way.heal()
            await self._listen()

        self._call(heal)

    def _call(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(change(), self._loop).result(_CALL_SECONDS)

    def _change(self, direction: Direction, change: Callable[[_Way], None]) -> None:
        async def apply() -> None:
            for name, way in self._ways.items():
                if direction in (name, "both"):
                    change(way)

        self._call(apply)

    # On the proxy's own thread.

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._ways = {"to_server": _Way(), "to_client": _Way()}
        await self._listen()
        self._is_up.set()
        await self._end.wait()
        await self._stop_listening()
        # Order matters: a connection that is still being made would be open after the cut, and
        # stay open.
        await asyncio.gather(*self._connecting)
        await self._cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _listen(self) -> None:
        # Not asyncio's own server: closing it drops a connection that it is just accepting.
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.settimeout(0)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            client.settimeout(0)
            self.connections += 1
            self._accepted.add(client)
            _spawn(self._connect(client), self._connecting)

    async def _connect(self, client: socket.socket) -> None:
        server: _Stream | None = None
        with contextlib.suppress(OSError):  # including a timeout
            async with asyncio.timeout(_CONNECT_SECONDS):
                server = await asyncio.open_connection(*self._target, limit=_HELD_BYTES)
        questions, to_client = await asyncio.open_connection(sock=client, limit=_HELD_BYTES)
        is_wanted = client in self._accepted  # or cut meanwhile
        self._accepted.discard(client)
        if server is None or not is_wanted:
            _reset(to_client)
            if server is not None:
                _reset(server[1])
            return
        answers, to_server = server
        link = (to_client, to_server)
        self._links.add(link)
        _spawn(self._pump(questions, to_server, self._ways["to_server"], link), self._pumps)
        _spawn(self._pump(answers, to_client, self._ways["to_client"], link), self._pumps)

    async def _cut(self) -> None:
        self._accepted.clear()
        for link in self._links:
            for writer in link:
                _reset(writer)
        self._links.clear()
        for writer in self._abandoned:
            _reset(writer)
        self._abandoned.clear()

    async def _abandon(self) -> None:
        self._accepted.clear()  # connections that are being made are reset at both ends
        for to_client, to_server in self._links:
            self._abandoned.add(to_server)
            _reset(to_client)
        self._links.clear()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: _Way, link: _Link
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                while data:
                    await way.is_open.wait()
                    data = await self._forward(data, sink, way, link)
            await way.is_open.wait()
        self._close(link)

    async def _forward(
        self, data: bytes, sink: asyncio.StreamWriter, way: _Way, link: _Link
    ) -> bytes:
        """Forward what may go now; returns the rest."""
        size = len(data)
        if way.bytes_per_second is not None:
            size = min(size, max(1, way.bytes_per_second // 20))
        if way.bytes_until_cut is not None:
            size = min(size, way.bytes_until_cut)
            way.bytes_until_cut -= size
        sink.write(data[:size])
        await sink.drain()
        if way.bytes_until_cut == 0:
            way.bytes_until_cut = None
            self._close(link)
            raise ConnectionAbortedError
        if way.bytes_per_second is not None:
            await asyncio.sleep(size / way.bytes_per_second)
        return data[size:]

    def _close(self, link: _Link) -> None:
        self._links.discard(link)
        to_client, to_server = link
        to_client.close()
        if to_server not in self._abandoned:
            to_server.close()


def _spawn(work: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    running.add(task)
    task.add_done_callback(running.discard)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
