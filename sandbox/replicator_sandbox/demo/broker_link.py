"""A TCP proxy in front of a broker that is not ours to kill: the demo cuts this instead."""

import contextlib
import socket
import threading

from replicator_sandbox.host import free_port

_CHUNK = 65536
_POLL_SECONDS = 0.2


class BrokerLink:
    """Forwards a loopback port to a broker until it is cut, and again once it is restored."""

    def __init__(self, host: str, port: int) -> None:
        """Name the broker; `restore` starts forwarding."""
        self.port = free_port()
        self._target = (host, port)
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def restore(self) -> None:
        """Accept and forward connections; safe to repeat."""
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self.port))
            listener.settimeout(_POLL_SECONDS)
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Close every connection and refuse new ones; safe to repeat."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while listener is self._listener:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            client.settimeout(None)
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}
        # Close only this direction's source: the other pump may still be reading from the sink.
        source.close()
