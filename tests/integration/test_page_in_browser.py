"""The page in a real browser: with and without its script, on a phone, in the dark, read aloud."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator_sandbox.rabbitmq import PrivateRabbitMQ
from rethinkdb import r

from tests.support.chromium import PATIENCE, Chromium
from tests.support.markers import MARKER
from tests.support.observed import FakeService, feed_of
from tests.support.page_picture import HEIGHT, WIDTH
from tests.support.page_picture import main as make_picture
from tests.support.replicator import ReplicatorProcess
from tests.support.wait import wait_until
from tests.support.web import serving

LONG_NAME = "a_database_with_a_long_name.a_table_with_a_name_that_is_even_longer_than_that"


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def browser(one_browser: Chromium) -> Iterator[Chromium]:
    """The browser, as a new visitor would have it."""
    one_browser.resize(1000, 1100)
    yield one_browser
    one_browser.do("Emulation.setScriptExecutionDisabled", value=False)
    one_browser.prefer(prefers_color_scheme="light")
    one_browser.open("about:blank")


@pytest.fixture
def service() -> FakeService:
    service = FakeService()
    service.feeds = [feed_of("shop.orders"), feed_of(LONG_NAME, "initializing")]
    service.pending = [0, 10, 80, 120, 60, 5]
    return service


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    with serving(service) as web:
        yield f"http://127.0.0.1:{web.port}/"


def test_it_shows_the_facts_and_asks_nobody_else(browser: Chromium, url: str) -> None:
    browser.open(url)

    text = browser.text()
    assert "shop.orders" in text
    assert f"The snapshot of {LONG_NAME} is being compared" in text
    assert browser.ask("document.querySelectorAll('svg path.line').length") == 2
    assert browser.complaints() == []
    asked = browser.requested()
    assert [each for each in asked if not each.startswith((url, "data:"))] == []


def test_it_shows_the_facts_without_javascript(browser: Chromium, url: str) -> None:
    browser.do("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(url)

    told = browser.accessibility()
    names = [name for _, name, _ in told]
    assert "shop.orders" in names
    assert any("is being compared" in name for name in names)
    assert "Reload the page for newer figures." in names
    assert any(role == "image" and name.startswith("Backlog") for role, name, _ in told)


def test_it_follows_what_happens_and_keeps_the_list_while_its_texts_are_the_same(
    browser: Chromium, url: str, service: FakeService
) -> None:
    browser.open(url)
    browser.ask("void (window.kept = document.querySelector('#troubles li'))")

    service.feeds = [feed_of("shop.orders"), feed_of(LONG_NAME, "initializing", captured=9)]
    service.feeds[1]["snapshot_documents"] = 4321
    service.outbox["pending"] = 777
    wait_until(lambda: "4,321 documents so far" in browser.text(), PATIENCE, "new figures")
    assert "777 entries" in browser.text()
    # A screen reader has nothing to say: the list is the one that it was.
    assert browser.ask("window.kept === document.querySelector('#troubles li')")

    service.feeds = [feed_of("shop.orders")]
    service.outbox["pending"] = 0
    wait_until(lambda: "Nothing is wrong." in browser.text(), PATIENCE, "the end of the trouble")
    assert not browser.ask("window.kept.isConnected")
    assert browser.ask("document.title") == "replicator: ready"
    assert browser.complaints() == []


def test_it_says_that_it_is_old_when_nobody_answers_and_recovers(
    browser: Chromium, url: str, service: FakeService
) -> None:
    browser.open(url)
    browser.do(
        "Network.emulateNetworkConditions",
        offline=True,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    wait_until(lambda: "does not answer" in browser.text(), PATIENCE, "that it is old")
    assert browser.ask("document.title") == "replicator: no answer"
    assert ("alert", True) in [(role, bool(told)) for role, _, told in browser.accessibility()]

    service.is_ready = False
    browser.do(
        "Network.emulateNetworkConditions",
        offline=False,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    wait_until(lambda: "does not answer" not in browser.text(), PATIENCE, "its recovery")
    assert browser.ask("document.title") == "replicator: not ready, 1 problem"


def test_a_script_that_got_into_the_page_is_not_run(browser: Chromium, url: str) -> None:
    """Through the door that the escaping keeps shut: the policy is the second one."""
    browser.open(url)
    browser.ask(
        "void document.body.insertAdjacentHTML('beforeend', "
        "'<img src=data:, onerror=\"window.hacked = true\">')"
    )
    browser.ask(
        "void document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'window.hacked = true'}))"
    )
    wait_until(lambda: len(browser.complaints()) >= 2, PATIENCE, "both refusals")

    assert browser.ask("window.hacked") is None
    assert all("Content Security Policy" in each for each in browser.complaints())


@pytest.mark.parametrize("width", [320, 390])
def test_it_fits_a_phone(browser: Chromium, url: str, service: FakeService, width: int) -> None:
    service.outbox |= {"pending": 950, "parked": 50, "full": True, "error": "x" * 300}
    browser.resize(width, 800, is_phone=True)
    browser.open(url)

    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    # Only the table may be wider, and then it scrolls by itself.
    assert browser.ask("getComputedStyle(document.querySelector('.wide')).overflowX") == "auto"
    assert browser.ask("getComputedStyle(document.querySelector('.spare')).display") == "none"
    assert browser.ask("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    height = "Math.min(...[...document.querySelectorAll('nav a')].map(a => a.offsetHeight))"
    assert browser.ask(height) >= 24  # WCAG 2.2, target size


@pytest.mark.parametrize(
    ("scheme", "back"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 22, 26)")]
)
def test_it_is_light_or_dark_as_one_likes(
    browser: Chromium, url: str, scheme: str, back: str
) -> None:
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(url)

    assert browser.ask("getComputedStyle(document.body).backgroundColor") == back


def test_nothing_moves_for_whom_motion_is_too_much(browser: Chromium, url: str) -> None:
    browser.prefer(prefers_reduced_motion="reduce")
    browser.open(url)

    moving = "[...document.querySelectorAll('*')].filter(e => { const s = getComputedStyle(e);"
    moving += " return s.transitionDuration !== '0s' || s.animationName !== 'none'; }).length"
    assert browser.ask(moving) == 0


def test_a_screen_reader_is_told_everything(
    browser: Chromium, url: str, service: FakeService
) -> None:
    service.outbox["parked"] = 2
    browser.open(url)
    told = browser.accessibility()
    by_role: dict[str, list[str]] = {}
    for role, name, _ in told:
        by_role.setdefault(role, []).append(name)

    assert by_role["RootWebArea"] == ["replicator: ready, 2 problems"]
    assert browser.ask("document.documentElement.lang") == "en"
    assert {"banner", "main", "contentinfo", "navigation"} <= by_role.keys()
    headings = ["What is wrong right now", "Now", "The last hour", "Feeds"]
    assert by_role["heading"][1:] == headings
    assert by_role["columnheader"][:4] == ["Table", "State", "Captured per s", "Confirmed per s"]
    assert by_role["rowheader"] == ["shop.orders", LONG_NAME]
    assert [name.partition(":")[0] for name in by_role["image"]] == [
        "Backlog, entries",
        "Age of the oldest entry",
    ]
    assert "now 5, max 120 in the last hour" in by_role["image"][0]
    live = [(name, each["live"]) for _, name, each in told if each.get("live", "off") != "off"]
    assert ("What is wrong right now", "polite") in live
    assert "Feeds" in by_role["region"]


# A real replicator.


def test_a_block_by_the_broker_appears_on_an_open_page_and_goes(
    browser: Chromium,
    replicator: ReplicatorProcess,
    rabbitmq: PrivateRabbitMQ,
    connection: Any,
    database: str,
) -> None:
    table = r.db(database).table("mytable")
    replicator.start_and_wait()
    browser.open(f"http://{replicator.http}/")
    assert "Nothing is wrong." in browser.text()

    rabbitmq.block()
    try:
        table.insert({"id": 1, "text": MARKER}).run(connection)
        wait_until(lambda: "an alarm blocks publishers" in browser.text(), PATIENCE, "the words")
        wait_until(lambda: "Backlog\n1 entry" in browser.text(), PATIENCE, "the backlog")
        assert browser.ask("document.title").startswith("replicator: not ready, buffering")
    finally:
        rabbitmq.unblock()
    wait_until(lambda: "an alarm blocks" not in browser.text(), PATIENCE, "the end")
    wait_until(lambda: "Backlog\n0 entries" in browser.text(), PATIENCE, "no backlog")
    # This broker has no queue, and drops what it was given: the next sample shows it.
    wait_until(lambda: "because no queue takes them" in browser.text(), PATIENCE, "what it did")
    assert "not known yet" not in browser.text()
    assert browser.ask("document.title") == "replicator: ready, 1 problem"
    assert browser.ask("document.querySelectorAll('svg').length") == 2
    assert browser.complaints() == []


def test_nothing_that_is_shown_has_a_document_or_its_key(
    browser: Chromium,
    replicator: ReplicatorProcess,
    rabbitmq: PrivateRabbitMQ,
    connection: Any,
    database: str,
) -> None:
    replicator.start_and_wait()
    rabbitmq.block()
    try:
        document = {"id": f"key-{MARKER}", "text": f"body-{MARKER}"}
        r.db(database).table("mytable").insert(document).run(connection)
        wait_until(lambda: replicator.status()["outbox"]["pending"] == 1, 30, "the entry")
        wait_until(lambda: replicator.get("history")[1]["rates"]["tables"], 30, "two samples")
        for path in ("", "status", "history", "metrics", "readyz", "livez"):
            browser.open(f"http://{replicator.http}/{path}")
            shown = browser.ask("document.documentElement.outerHTML")
            assert database in shown or path in {"livez", "readyz"}
            assert MARKER not in shown, path
    finally:
        rabbitmq.unblock()


def test_the_picture_in_the_documentation_is_made_like_this(tmp_path: Path) -> None:
    make_picture(tmp_path / "page.png")
    kept = Path(__file__).parents[2] / "docs" / "page.png"

    for picture in (tmp_path / "page.png", kept):
        assert picture.stat().st_size < 150_000
        head = picture.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert struct.unpack(">II", head[16:]) == (WIDTH, HEIGHT)
