"""The HTTP server of the page, the status, the metrics and the probes.

Read-only: it asks the service for facts and has none of its own. No part of a request is repeated
in an answer. Its thread also lets the service take samples.

Tornado reads the requests and bounds their size. What it does not bound is bounded here: how many
connections there are and how long each may last, which is for one request.
"""

import asyncio
import errno
import json
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from tornado import httputil
from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.iostream import IOStream
from tornado.tcpserver import TCPServer

from replicator import descriptors
from replicator.errors import SettingsInvalid
from replicator.web.facts import Facts
from replicator.web.page import PAGE_POLICY, render_page

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 64 * 1024  # read and ignored
MAX_CONNECTIONS: Final = 32
# For request and answer together: a client that sends a byte now and then stays within the timeout
# of any single read.
CONNECTION_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.5

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# JSON and metrics have no scripts, styles or forms, and no page may frame an answer.
_STRICT_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_COMMON_HEADERS: Final = {
    "Server": "replicator",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Observed(Protocol):
    """The service, as the server sees it: `replicator.observation.Observation`."""

    def liveness(self) -> Facts: ...
    def readiness(self) -> Facts: ...
    def facts(self) -> Facts: ...
    def history(self) -> Facts: ...
    def sample(self) -> None: ...
    def render_metrics(self) -> bytes: ...


class Reply(NamedTuple):
    """An answer: status, type and body."""

    status: HTTPStatus
    content_type: str
    body: bytes
    policy: str = _STRICT_POLICY


def _json(status: HTTPStatus, facts: Facts, *, indent: int | None = 2) -> Reply:
    return Reply(status, "application/json", json.dumps(facts, indent=indent).encode() + b"\n")


def _probe(facts: Facts, key: str) -> Reply:
    return _json(HTTPStatus.OK if facts[key] else HTTPStatus.SERVICE_UNAVAILABLE, facts)


def _page(observed: _Observed) -> Reply:
    as_of = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    body = render_page(observed.facts(), observed.history(), as_of)
    return Reply(HTTPStatus.OK, "text/html; charset=utf-8", body, PAGE_POLICY)


_ROUTES: Final[dict[str, Callable[[_Observed], Reply]]] = {
    "/": _page,
    "/livez": lambda observed: _probe(observed.liveness(), "live"),
    "/readyz": lambda observed: _probe(observed.readiness(), "ready"),
    "/status": lambda observed: _json(HTTPStatus.OK, observed.facts()),
    "/history": lambda observed: _json(HTTPStatus.OK, observed.history(), indent=None),
    "/metrics": lambda observed: Reply(HTTPStatus.OK, _METRICS_TYPE, observed.render_metrics()),
}


def reply(method: str, target: str, observed: _Observed) -> Reply:
    """Return the answer to a request."""
    if method not in {"GET", "HEAD"}:
        return _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
    try:
        route = _ROUTES.get(urlsplit(target).path)
    except ValueError:  # such as http://[
        return _refusal(HTTPStatus.BAD_REQUEST)
    return route(observed) if route else _refusal(HTTPStatus.NOT_FOUND, paths=list(_ROUTES))


def _refusal(status: HTTPStatus, **facts: object) -> Reply:
    return _json(status, {"error": status.phrase.lower(), **facts})


class _Exchange(httputil.HTTPMessageDelegate):
    """A request and its answer; a body is read to its end, or a client might miss the answer."""

    def __init__(self, connection: httputil.HTTPConnection, observed: _Observed) -> None:
        self._connection = connection
        self._observed = observed
        self._method = self._target = ""

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        del headers
        self._method, self._target, _ = map(str, start_line)

    def finish(self) -> None:
        answer = reply(self._method, self._target, self._observed)
        headers = _COMMON_HEADERS | {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": answer.policy,
            "Date": httputil.format_timestamp(time.time()),
        }
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        start = httputil.ResponseStartLine("", answer.status, answer.status.phrase)
        body = b"" if self._method == "HEAD" else answer.body
        self._connection.write_headers(start, httputil.HTTPHeaders(headers), body)
        self._connection.finish()


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, and listens.

    Raises:
        SettingsInvalid: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_dual = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=is_dual)
    except OSError as err:
        # Without the address, which Python says once more.
        reason = (err.strerror or str(err)).partition(" (while")[0]
        raise SettingsInvalid(
            f"http.listen: {host}:{port} cannot be used: {reason}",
            hint="choose another address with --http HOST:PORT, or `off`",
        ) from err


class _Listening(socket.socket):
    """A listening socket that takes a connection in even when the process has too much open."""

    def accept(self) -> tuple[socket.socket, Any]:
        try:
            return super().accept()
        except OSError as err:
            if err.errno != errno.EMFILE:
                raise
        with descriptors.reserve():
            return super().accept()


class WebServer(TCPServer, httputil.HTTPServerConnectionDelegate):
    """Serves until shut down; `run` is its thread."""

    def __init__(self, host: str, port: int, observed: _Observed) -> None:
        """Bind the port, so that a port in use is an error at start.

        Raises:
            SettingsInvalid: the address cannot be used.
        """
        super().__init__()
        self.observed = observed
        self.connections: Final[dict[HTTP1ServerConnection, float]] = {}
        """The open ones in the order of their arrival, each with its time."""
        self._parameters = HTTP1ConnectionParameters(
            no_keep_alive=True, max_header_size=MAX_HEADER_BYTES, max_body_size=MAX_BODY_BYTES
        )
        self._is_shut = threading.Event()
        self._socket = _Listening(fileno=listening(host, port).detach())
        self._socket.settimeout(0.0)
        self.port: Final[int] = self._socket.getsockname()[1]

    def run(self) -> None:
        """Serve, and let the service take samples."""
        asyncio.run(self._serve())

    def shut_down(self) -> None:
        """Let `run` return within half a second; from any thread; safe to repeat."""
        self._is_shut.set()

    async def _serve(self) -> None:
        self.add_socket(self._socket)
        while not self._is_shut.is_set():
            self.observed.sample()
            self._end_those_before(time.monotonic() - CONNECTION_SECONDS)
            await asyncio.sleep(_LOOK_SECONDS)
        self.stop()
        self._end_those_before(float("inf"))

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection in; the oldest makes room for it.

        A client that opens many and sends nothing would otherwise keep the probes out, and a
        healthy service would be restarted.
        """
        del address
        if len(self.connections) >= MAX_CONNECTIONS:
            # Not only in `on_close`, which is called later: others may come before.
            oldest = next(iter(self.connections))
            del self.connections[oldest]
            oldest.stream.close()
        connection = HTTP1ServerConnection(stream, self._parameters)
        self.connections[connection] = time.monotonic()
        connection.start_serving(self)

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> _Exchange:
        """Return what takes the request."""
        del server_conn
        return _Exchange(request_conn, self.observed)

    def on_close(self, server_conn: HTTP1ServerConnection) -> None:  # type: ignore[override]
        """Forget a connection that was closed."""
        self.connections.pop(server_conn, None)

    def _end_those_before(self, moment: float) -> None:
        for connection, opened_at in list(self.connections.items()):
            if opened_at < moment:
                connection.stream.close()
