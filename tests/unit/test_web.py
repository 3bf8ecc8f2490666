"""What the HTTP server answers, with a service that is made up."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.errors import SettingsInvalid
from replicator.web.server import Verdict, WebServer, reply


class FakeService:
    """A service whose state the test sets."""

    def __init__(self) -> None:
        self.is_live = self.is_ready = True

    def liveness(self) -> Verdict:
        return Verdict(self.is_live, {"live": self.is_live, "stuck": []})

    def readiness(self) -> Verdict:
        facts = {"ready": self.is_ready}
        return Verdict(self.is_ready, facts if self.is_ready else {**facts, "not_ready": ["feed"]})

    def facts(self) -> dict[str, Any]:
        return {
            "version": "1<2",
            "outbox": {"pending": 3, "parked": 1},
            "broker": {"connected": False},
            "feeds": [
                {"table": "db.<b>", "state": "lost", "last_error": "<script>"},
                {"table": "db.t", "state": "ready", "last_error": None},
            ],
        }

    def render_metrics(self) -> bytes:
        return b"replicator_in_flight 0\n"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def server(service: FakeService) -> Iterator[WebServer]:
    serving = WebServer("127.0.0.1", 0, service)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join(20)


def ask(server: WebServer, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_says_200_or_503_and_why(service: FakeService, path: str) -> None:
    assert reply(path, service).status == 200
    service.is_live = service.is_ready = False
    refused = reply(path, service)

    assert refused.status == 503
    assert refused.content_type == "application/json"
    assert json.loads(refused.body) in (
        {"live": False, "stuck": []},
        {"ready": False, "not_ready": ["feed"]},
    )


def test_the_status_is_the_facts_as_json(service: FakeService) -> None:
    answer = reply("/status?pretty=1", service)

    assert (answer.status, json.loads(answer.body)) == (200, service.facts())


def test_metrics_are_prometheus_text(service: FakeService) -> None:
    answer = reply("/metrics", service)

    assert answer.body == b"replicator_in_flight 0\n"
    assert answer.content_type.startswith("text/plain; version=0.0.4")


def test_the_page_for_people_shows_the_feeds_and_escapes_what_it_shows(
    service: FakeService,
) -> None:
    page = reply("/", service)
    text = page.body.decode()

    assert page.content_type.startswith("text/html")
    assert "db.t" in text
    assert "not connected" in text
    assert "<script>" not in text
    assert "db.&lt;b&gt;" in text
    assert "1&lt;2" in text


def test_an_unknown_path_is_told_which_there_are(service: FakeService) -> None:
    answer = reply("/nope", service)

    assert answer.status == 404
    assert "/readyz" in json.loads(answer.body)["paths"]


def test_the_server_answers_over_http(server: WebServer, service: FakeService) -> None:
    status, headers, body = ask(server, "GET", "/metrics")
    assert (status, body) == (200, service.render_metrics())
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Length"] == str(len(body))
    assert "Python" not in headers["Server"]


def test_a_head_request_gets_the_headers_alone(server: WebServer) -> None:
    status, headers, body = ask(server, "HEAD", "/status")

    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_only_reading_is_possible(server: WebServer) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"):
        status, headers, _ = ask(server, method, "/status")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_an_address_in_use_is_a_setting_that_is_wrong(
    server: WebServer, service: FakeService
) -> None:
    with pytest.raises(SettingsInvalid, match=r"http\.listen") as refused:
        WebServer("127.0.0.1", server.server_address[1], service)
    assert refused.value.hint


def test_nothing_is_logged_for_a_request(
    server: WebServer, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(server, "GET", "/livez")

    assert capfd.readouterr() == ("", "")
