"""The embedded RethinkDB: one thread with one event loop, on a loopback port.

Everything that queries touch belongs to that thread; other threads get in only through
`EmbeddedRethinkDB.switch` and `stop`. It keeps nothing on disk and is for demos and tests.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from replicator_sandbox import terms
from replicator_sandbox.changefeed import Feed, PointFeed, TableFeed
from replicator_sandbox.connection import Connection
from replicator_sandbox.engine import Engine
from replicator_sandbox.faults import Faults, FaultSwitches
from replicator_sandbox.reql_errors import op_failed

assert terms.__all__  # importing the package registers the terms

_Result = TypeVar("_Result")
_READ_BUFFER_BYTES = 1024 * 1024
_START_SECONDS = 10


class SandboxServer(FaultSwitches):
    """The server on a running event loop: for a process of its own."""

    def __init__(self, *, poll_seconds: float = 1.0) -> None:
        """Make a server; feeds on polled system tables look for changes every ``poll_seconds``."""
        loop = asyncio.get_running_loop()
        self.engine = Engine(loop.call_soon)
        self.faults = Faults()
        self._poll_seconds = poll_seconds
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._poller: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Listen; with port 0 on any free port, which `port` then returns."""
        self._listener = await asyncio.start_server(
            self._on_connection, host, port, ssl=tls, limit=_READ_BUFFER_BYTES
        )
        self.engine.port = self._listener.sockets[0].getsockname()[1]
        self._poller = asyncio.ensure_future(self._poll())

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._poller is not None:
            self._poller.cancel()
        if self._listener is not None:
            self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        self.faults.set_silent(on=False)
        self.faults.set_stall(on=False)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Return the port for drivers."""
        return self.engine.port

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.faults.is_refusing:
            writer.transport.abort()
            return
        connection = Connection(self.engine, self.faults, reader, writer)
        self._connections.add(connection)
        self._tasks.add(task)
        try:
            await connection.serve()
        except asyncio.CancelledError:
            connection.drop()
        finally:
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            self.engine.system.refresh("timer")

    def switch(self, name: str, **arguments: Any) -> int:
        """Carry out the fault ``name``.

        Raises:
            ValueError: the fault is unknown.
        """
        action: Callable[..., int] | None = getattr(self, f"_fault_{name}", None)
        if action is None:
            raise ValueError(f"no such fault: {name}")
        return action(**arguments)

    def _fault_drop_connections(self) -> int:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return len(tasks)

    def _fault_overflow_feeds(self, table: str | None) -> int:
        feeds = self._feeds_on(table)
        for feed in feeds:
            feed.overflow()
        return len(feeds)

    def _fault_abort_feeds(self, table: str | None, message: str) -> int:
        feeds = self._feeds_on(table)
        for feed in feeds:
            feed.abort(op_failed(message))
        return len(feeds)

    def _fault_go_silent(self, *, on: bool) -> int:
        self.faults.set_silent(on=on)
        return len(self._connections)

    def _fault_refuse(self, *, on: bool) -> int:
        self.faults.is_refusing = on
        return 0

    def _fault_delay(self, seconds: float) -> int:
        self.faults.delay_seconds = seconds
        return len(self._connections)

    def _fault_stall_mid_message(self, *, on: bool) -> int:
        self.faults.set_stall(on=on)
        return len(self._connections)

    def _fault_hold_ready(self, *, on: bool) -> int:
        self.faults.is_ready_held = on
        for feed in self.engine.feeds():
            feed.is_ready_held = on
            feed.on_data()
        return len(self.engine.jobs)

    def _feeds_on(self, name: str | None) -> list[Feed]:
        return [
            feed
            for feed in self.engine.feeds()
            if name is None
            or (
                isinstance(feed, (TableFeed, PointFeed))
                and name == f"{feed.table.database.name}.{feed.table.name}"
            )
        ]


class EmbeddedRethinkDB(FaultSwitches):
    """An in-memory RethinkDB in this process, for demos and tests.

    Example:
        with EmbeddedRethinkDB() as server:
            connection = rethinkdb.r.connect(host=server.host, port=server.port)
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        """Configure the server; `start` or ``with`` starts it.

        Args:
            host: address to listen on; loopback unless there is a good reason.
            port: port for drivers, 0 for any free one.
            tls: context of a server that speaks TLS only.
            poll_seconds: feeds on polled system tables look for changes this often.
        """
        self.host = host
        self.port = port
        self._tls = tls
        self._poll_seconds = poll_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._server: SandboxServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Return the address in the form that ``rethinkdb.url`` takes."""
        return f"rethinkdb://admin@{self.host}:{self.port}"

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    def start(self) -> None:
        """Start the thread and wait until the port is open.

        Raises:
            OSError: the port cannot be opened.
        """
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listening)),
            name="embedded-rethinkdb",
            daemon=True,
        )
        self._thread.start()
        listening.result(_START_SECONDS)

    def stop(self) -> None:
        """Close every connection and end the thread; all data is lost."""
        loop, thread, stopping = self._loop, self._thread, self._stopping
        if loop is None or thread is None or stopping is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(stopping.set)
        thread.join()
        self._loop = self._thread = self._server = None

    def switch(self, name: str, **arguments: Any) -> int:
        """Carry out a fault in the server's thread and wait until it has taken effect."""
        server = self._server
        if server is None:
            raise RuntimeError("the embedded RethinkDB is not running")
        return self.call(lambda: server.switch(name, **arguments))

    def call(self, action: Callable[[], _Result]) -> _Result:
        """Run ``action`` in the server's thread and return its result."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("the embedded RethinkDB is not running")

        async def run() -> _Result:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), loop).result(_START_SECONDS)

    async def _run(self, listening: "Future[None]") -> None:
        stopping = self._stopping = asyncio.Event()
        server = SandboxServer(poll_seconds=self._poll_seconds)
        try:
            await server.start(self.host, self.port, self._tls)
        except OSError as err:
            listening.set_exception(err)
            return
        self.port = server.port
        self._loop = asyncio.get_running_loop()
        self._server = server
        listening.set_result(None)
        await stopping.wait()
        await server.stop()
