"""The control port of a sandbox in its own process: faults on demand.

One JSON object a line, ``{"fault": name, "arguments": {...}}``, answered by
``{"met": count}`` or ``{"error": text}``. It is a separate port because a real RethinkDB does not
have such queries; it listens on loopback only.
"""

import asyncio
import json
import socket
from types import TracebackType
from typing import Any, Self

from replicator_sandbox.faults import FaultSwitches

_TIMEOUT_SECONDS = 10


class ControlPort:
    """The server's side."""

    def __init__(self, switches: FaultSwitches) -> None:
        """Operate ``switches``."""
        self._switches = switches

    async def start(self, port: int) -> asyncio.Server:
        """Listen on loopback."""
        return await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(self._answer(line)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            return {"met": self._switches.switch(order["fault"], **order["arguments"])}
        except (ValueError, KeyError, TypeError) as err:
            return {"error": f"{type(err).__name__}: {err}"}


class SandboxControl(FaultSwitches):
    """The client's side: the fault switches of a sandbox in another process."""

    def __init__(self, port: int) -> None:
        """Connect to the control port on loopback."""
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self.close()

    def close(self) -> None:
        """Disconnect; faults that are switched on stay on."""
        self._lines.close()
        self._socket.close()

    def switch(self, name: str, **arguments: Any) -> int:
        """Switch on the fault ``name`` and wait until it has taken effect.

        Raises:
            ValueError: the sandbox does not know it.
            ConnectionError: the sandbox is gone.
        """
        order = json.dumps({"fault": name, "arguments": arguments})
        self._socket.sendall(order.encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the sandbox closed its control port")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return int(answer["met"])
