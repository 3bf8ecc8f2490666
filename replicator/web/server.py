"""The HTTP server of probes, metrics and status.

Read-only; requests are bounded in size by the standard library and in time here. It asks the
service for facts and has none of its own.
"""

import html
import http.server
import json
import socket
import socketserver
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from replicator.errors import SettingsInvalid

_REQUEST_SECONDS: Final = 10
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Facts = Mapping[str, Any]


class Verdict(NamedTuple):
    """The answer of a probe."""

    is_ok: bool
    facts: Facts


class Observed(Protocol):
    """What the server shows: the service."""

    def liveness(self) -> Verdict:
        """Return whether every loop makes progress."""
        ...

    def readiness(self) -> Verdict:
        """Return whether every feed is ready and the broker takes messages."""
        ...

    def facts(self) -> Facts:
        """Return the facts of ``/status``."""
        ...

    def render_metrics(self) -> bytes:
        """Return Prometheus' text."""
        ...


class Reply(NamedTuple):
    """What a request is answered with."""

    status: HTTPStatus
    content_type: str
    body: bytes


def _json(status: HTTPStatus, facts: Facts) -> Reply:
    return Reply(status, "application/json", json.dumps(facts, indent=2).encode() + b"\n")


def _probe(verdict: Verdict) -> Reply:
    status = HTTPStatus.OK if verdict.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _json(status, verdict.facts)


def _page(observed: Observed) -> Reply:
    """Return the page for people: the facts, without scripts."""
    facts = observed.facts()
    rows = "".join(
        f"<tr><td>{html.escape(str(feed['table']))}</td><td>{html.escape(str(feed['state']))}</td>"
        f"<td>{html.escape(str(feed['last_error'] or ''))}</td></tr>"
        for feed in facts["feeds"]
    )
    outbox = facts["outbox"]
    broker = "connected" if facts["broker"]["connected"] else "not connected"
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>replicator</title>"
        "<meta name=viewport content='width=device-width'>"
        f"<h1>replicator {html.escape(str(facts['version']))}</h1>"
        f"<p>RabbitMQ is {broker}; {outbox['pending']} entries pending, "
        f"{outbox['parked']} parked.</p>"
        "<table><caption>Feeds</caption><tr><th>table<th>state<th>last error</tr>"
        f"{rows}</table>"
        "<p><a href=/status>status</a> <a href=/metrics>metrics</a> "
        "<a href=/livez>livez</a> <a href=/readyz>readyz</a></p></html>"
    )
    return Reply(HTTPStatus.OK, "text/html; charset=utf-8", body.encode())


_ROUTES: Final[dict[str, Callable[[Observed], Reply]]] = {
    "/": _page,
    "/livez": lambda observed: _probe(observed.liveness()),
    "/readyz": lambda observed: _probe(observed.readiness()),
    "/status": lambda observed: _json(HTTPStatus.OK, observed.facts()),
    "/metrics": lambda observed: Reply(HTTPStatus.OK, _METRICS_TYPE, observed.render_metrics()),
}


def reply(path: str, observed: Observed) -> Reply:
    """Return the answer to a request for a path."""
    route = _ROUTES.get(urlsplit(path).path)
    if route is None:
        facts = {"error": "not found", "paths": list(_ROUTES)}
        return _json(HTTPStatus.NOT_FOUND, facts)
    return route(observed)


class WebServer(http.server.ThreadingHTTPServer):
    """Serves until `shutdown`; `serve_forever` is its thread."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, observed: Observed) -> None:
        """Bind at once, so that a port in use is an error at start.

        Raises:
            SettingsInvalid: the address cannot be used.
        """
        self.observed = observed
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Requests)
        except OSError as err:
            raise SettingsInvalid(
                f"http.listen: {host}:{port} cannot be used: {err.strerror or err}",
                hint="choose another --http HOST:PORT, or `off`",
            ) from err

    def server_bind(self) -> None:
        """Bind without the base class's look-up of this host's name, which can take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away; let defects be shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Requests(http.server.BaseHTTPRequestHandler):
    server: WebServer
    server_version = "replicator"
    sys_version = ""
    timeout = _REQUEST_SECONDS

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        answer = reply(self.path, self.server.observed)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- inherited
        """Log nothing: probes and scrapes come every few seconds."""
