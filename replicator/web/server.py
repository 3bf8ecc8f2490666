"""The HTTP server of the page, the status, the metrics and the probes.

Read-only: it asks the service for facts and has none of its own. No part of a request is repeated
in an answer. What a client may use is bounded in `replicator.web.bounds`. Its thread also asks the
service to take samples.
"""

import contextlib
import http.server
import io
import json
import socket
import socketserver
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from replicator.errors import SettingsInvalid
from replicator.web.bounds import (
    MAX_CONNECTIONS,
    MAX_REQUEST_BYTES,
    REPLY_SECONDS,
    REQUEST_SECONDS,
    BoundedReader,
    Connections,
    RequestRefused,
    read_to_end,
)
from replicator.web.page import PAGE_POLICY, render_page

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# JSON and metrics have no scripts, styles or forms, and no page may frame an answer.
_STRICT_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFETY: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Facts = Mapping[str, Any]


class Verdict(NamedTuple):
    """The answer of a probe."""

    is_ok: bool
    facts: Facts


class Observed(Protocol):
    """The service, as the server sees it."""

    def liveness(self) -> Verdict:
        """Return whether every loop makes progress."""
        ...

    def readiness(self) -> Verdict:
        """Return whether every feed is ready and the broker takes messages."""
        ...

    def facts(self) -> Facts:
        """Return the facts of ``/status``."""
        ...

    def history(self) -> Facts:
        """Return the facts of ``/history``: the figures of the last hour."""
        ...

    def sample(self) -> None:
        """Take a sample for the history if one is due; one thread calls it twice a second."""
        ...

    def render_metrics(self) -> bytes:
        """Return Prometheus' text."""
        ...


class Reply(NamedTuple):
    """An answer: status, type and body."""

    status: HTTPStatus
    content_type: str
    body: bytes
    policy: str = _STRICT_POLICY


def _json(status: HTTPStatus, facts: Facts, *, indent: int | None = 2) -> Reply:
    return Reply(status, "application/json", json.dumps(facts, indent=indent).encode() + b"\n")


def _probe(verdict: Verdict) -> Reply:
    status = HTTPStatus.OK if verdict.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _json(status, verdict.facts)


def _page(observed: Observed) -> Reply:
    """Return the page for people."""
    as_of = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    body = render_page(observed.facts(), observed.history(), as_of)
    return Reply(HTTPStatus.OK, "text/html; charset=utf-8", body.encode(), PAGE_POLICY)


_ROUTES: Final[dict[str, Callable[[Observed], Reply]]] = {
    "/": _page,
    "/livez": lambda observed: _probe(observed.liveness()),
    "/readyz": lambda observed: _probe(observed.readiness()),
    "/status": lambda observed: _json(HTTPStatus.OK, observed.facts()),
    "/history": lambda observed: _json(HTTPStatus.OK, observed.history(), indent=None),
    "/metrics": lambda observed: Reply(HTTPStatus.OK, _METRICS_TYPE, observed.render_metrics()),
}


def reply(path: str, observed: Observed) -> Reply:
    """Return the answer for a path."""
    try:
        route = _ROUTES.get(urlsplit(path).path)
    except ValueError:  # such as http://[
        return refusal(HTTPStatus.BAD_REQUEST)
    if route is None:
        facts = {"error": "not found", "paths": list(_ROUTES)}
        return _json(HTTPStatus.NOT_FOUND, facts)
    return route(observed)


def refusal(status: HTTPStatus) -> Reply:
    """Return an error answer that says only its status."""
    return _json(status, {"error": status.phrase.lower()})


class WebServer(http.server.ThreadingHTTPServer):
    """Serves until `shutdown`; `serve_forever` is its thread."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, observed: Observed) -> None:
        """Bind the port, so that a port in use is an error at start.

        Raises:
            SettingsInvalid: the address cannot be used.
        """
        self.observed = observed
        self.connections: Final = Connections(MAX_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Requests)
        except OSError as err:
            raise SettingsInvalid(
                f"http.listen: {host}:{port} cannot be used: {err.strerror or err}",
                hint="choose another address with --http HOST:PORT, or `off`",
            ) from err

    def server_bind(self) -> None:
        """Bind without the base class's look-up of this host's name, which can be slow."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def service_actions(self) -> None:
        """Let the service take a sample: `serve_forever` calls this twice a second."""
        self.observed.sample()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread, once there is room for it."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and make room for another."""
        self.connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Report defects, but not clients that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Requests(http.server.BaseHTTPRequestHandler):
    """One request; the base class speaks HTTP/1.0, which closes the connection after it."""

    server: WebServer
    # A request without a version, or one that cannot be understood, would otherwise be answered as
    # HTTP/0.9: without status and headers.
    default_request_version = "HTTP/1.0"
    command = ""
    request_version = default_request_version

    def setup(self) -> None:
        """Read the request through a bounded reader."""
        super().setup()
        raw = BoundedReader(self.connection, max_bytes=MAX_REQUEST_BYTES, seconds=REQUEST_SECONDS)
        self.rfile.close()
        self.rfile = io.BufferedReader(raw)

    def handle_one_request(self) -> None:
        """Answer one request, or refuse it."""
        try:
            super().handle_one_request()
        except RequestRefused as refused:
            self._send(refusal(refused.status))

    def finish(self) -> None:
        """Let the client read its answer before the connection is closed."""
        super().finish()
        with contextlib.suppress(OSError):  # the client closed first
            read_to_end(self.connection)

    def do_GET(self) -> None:
        self._send(reply(self.path, self.server.observed))

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the status only; the base class would repeat parts of the request."""
        del message, explain
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:  # the base class, for other methods
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self._send(refusal(status))

    def _send(self, answer: Reply) -> None:
        self.close_connection = True
        # A client that claims HTTP/0.9 gets a status and headers too.
        self.request_version = self.default_request_version
        # For the whole answer: `sendall` does not restart the timeout with each part.
        self.connection.settimeout(REPLY_SECONDS)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Security-Policy", answer.policy)
        for name, value in _SAFETY.items():
            self.send_header(name, value)
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        """Return the program's name, without a version."""
        return "replicator"

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Do not log: probes and scrapes come every few seconds."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- inherited
        """Do not log, for the same reason."""
