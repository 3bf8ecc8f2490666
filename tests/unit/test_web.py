"""What the HTTP server answers, with a service that is made up."""

import http.client
import json
from collections.abc import Iterator

import pytest

from replicator.errors import SettingsInvalid
from replicator.web.server import WebServer, reply
from tests.support.observed import FakeService
from tests.support.wait import wait_until
from tests.support.web import serving


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def server(service: FakeService) -> Iterator[WebServer]:
    with serving(service) as web:
        yield web


def ask(server: WebServer, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_says_200_or_503_and_why(service: FakeService, path: str) -> None:
    assert reply("GET", path, service).status == 200
    service.is_live = service.is_ready = False
    refused = reply("GET", path, service)

    assert refused.status == 503
    assert refused.content_type == "application/json"
    assert json.loads(refused.body) in (
        {"live": False, "stuck": []},
        {"ready": False, "not_ready": ["feed"]},
    )


def test_the_status_is_the_facts_as_json(service: FakeService) -> None:
    answer = reply("GET", "/status?pretty=1", service)

    assert (answer.status, json.loads(answer.body)) == (200, service.facts())


def test_metrics_are_prometheus_text(service: FakeService) -> None:
    answer = reply("GET", "/metrics", service)

    assert answer.body == b"replicator_in_flight 0\n"
    assert answer.content_type.startswith("text/plain; version=0.0.4")


def test_the_page_for_people_is_html_that_nothing_can_be_loaded_into(service: FakeService) -> None:
    page = reply("GET", "/", service)

    assert page.content_type.startswith("text/html")
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in page.policy
    assert "script-src" not in reply("GET", "/status", service).policy


def test_the_history_is_json(service: FakeService) -> None:
    answer = reply("GET", "/history", service)

    assert (answer.status, json.loads(answer.body)) == (200, service.history())


def test_the_serving_thread_lets_samples_be_taken_without_a_request(
    server: WebServer, service: FakeService
) -> None:
    del server
    wait_until(lambda: service.samples > 1, 20, "two samples")


def test_an_unknown_path_is_told_which_there_are(service: FakeService) -> None:
    answer = reply("GET", "/nope", service)

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
        WebServer("127.0.0.1", server.port, service)
    assert refused.value.hint


def test_nothing_is_logged_for_a_request(
    server: WebServer, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(server, "GET", "/livez")

    assert capfd.readouterr() == ("", "")
