"""The page for people, as text: whole, escaped, allowed by its policy, readable."""

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from replicator.web import page
from replicator.web.page import PAGE_POLICY, render_page
from tests.support.observed import FakeService, feed_of

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.tags)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def shown(service: FakeService) -> str:
    page = render_page(service.facts(), service.history(), "2026-11-23 10:00:00 UTC")
    return page.decode()


def test_it_shows_the_feeds_with_states_and_rates(service: FakeService) -> None:
    text = shown(service)

    assert "<th scope=row>shop.orders</th>\n<td class=good>ready</td>" in text
    assert "<td class=number>12</td>\n<td class=number>0.2</td>" in text
    assert "<td class='number spare'>1,234</td>" in text
    assert "10:05:00 UTC" in text


def test_a_feed_without_a_rate_says_so(service: FakeService) -> None:
    history = {**service.history(), "rates": {"seconds": 60.0, "tables": {}}}

    text = render_page(service.facts(), history, "now").decode()

    assert text.count("<td class=number>not known yet</td>") == 2


def test_it_shows_backlog_age_in_flight_parked_and_gaps(service: FakeService) -> None:
    service.outbox |= {
        "pending": 12_345,
        "parked": 3,
        "oldest_entry_age_seconds": 75.0,
        "max_entries": 1_000_000,
        "bytes": 250_000,
    }
    service.broker = {**(service.broker or {}), "in_flight": 500}
    service.feeds.append(feed_of("db.t", gap={"cause": "start", "from": "2026-11-23T09:00:00Z"}))
    text = shown(service)

    for name, value in {
        "Backlog": "12,345 entries",
        "Oldest entry": "1 min 15 s",
        "In flight": "500",
        "Parked": "3",
        "Gaps open": "1",
        "Outbox": "244.1 KiB, 25% full",
        "RabbitMQ": "connected",
    }.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text


@pytest.mark.parametrize(
    ("is_ready", "changed", "title"),
    [
        (True, {}, "replicator: ready"),
        (False, {}, "replicator: not ready"),
        (False, {"degraded": "buffering"}, "replicator: not ready, buffering"),
    ],
)
def test_the_title_says_the_state(
    service: FakeService,
    is_ready: bool,  # noqa: FBT001 -- pytest passes it so
    changed: dict[str, Any],
    title: str,
) -> None:
    service.is_ready, service.changed = is_ready, changed
    assert f"<title>{title}</title>" in shown(service)

    service.outbox["parked"] = 1
    assert f"<title>{title}, 1 problem</title>" in shown(service)


def test_what_is_wrong_is_said_with_what_to_do(service: FakeService) -> None:
    assert "Nothing is wrong." in shown(service)

    service.feeds = [feed_of("db.t", "lost", last_error="the server went away")]
    text = shown(service)

    assert "Nothing is wrong." not in text
    assert "<strong>Error: The feed of db.t is lost.</strong>" in text
    assert "the server went away" in text
    assert "<p>Check RethinkDB" in text


def test_no_text_from_outside_becomes_markup(service: FakeService) -> None:
    plain = Parsed(shown(service)).tags
    service.feeds = [
        feed_of(
            HOSTILE,
            state=HOSTILE,
            changed_at=HOSTILE,
            gap={"cause": HOSTILE, "from": HOSTILE},
        ),
        feed_of(HOSTILE, state="lost", since=HOSTILE, last_error=HOSTILE),
    ]
    service.outbox |= {"id": HOSTILE, "error": HOSTILE}
    service.broker = {**(service.broker or {}), "connected": False, "error": HOSTILE}
    service.changed = {"version": HOSTILE}
    text = shown(service)
    parsed = Parsed(text)

    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text
    assert parsed.count("script") == sum(tag == "script" for tag, _ in plain) == 1
    assert parsed.count("img") == 0
    assert not [name for _, attributes in parsed.tags for name in attributes if name[:2] == "on"]


def test_only_its_own_script_and_style_are_allowed_by_their_digests(service: FakeService) -> None:
    text = shown(service)
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in PAGE_POLICY

    assert PAGE_POLICY.startswith("default-src 'none';")
    assert "unsafe" not in PAGE_POLICY
    assert not [name for _, each in Parsed(text).tags for name in each if name == "style"]


def test_it_names_no_other_place_to_load_from(service: FakeService) -> None:
    for _, attributes in Parsed(shown(service)).tags:
        for name in ("src", "href", "action"):
            target = attributes.get(name) or ""
            # Relative, so that it works below a path of a proxy too.
            assert re.fullmatch(r"[a-z]*|data:,", target), target


def test_it_is_small(service: FakeService) -> None:
    service.pending = [number * 997 % 1000 for number in range(360)]
    service.feeds = [feed_of(f"shop.table_{number}") for number in range(20)]

    assert len(shown(service).encode()) < 60_000


def test_no_more_than_one_state_is_shown_of_the_broker(service: FakeService) -> None:
    service.broker = {**(service.broker or {}), "blocked": True}
    assert "<dt>RabbitMQ</dt><dd>blocked</dd>" in shown(service)

    service.broker = {**service.broker, "blocked": False, "connected": False}
    assert "<dt>RabbitMQ</dt><dd>not connected</dd>" in shown(service)


# The plot.


def drawn(ages: list[float], values: list[float]) -> str:
    service = FakeService()
    history = {**service.history(), "age_seconds": ages, "pending": values}
    history["oldest_entry_age_seconds"] = [0.0] * len(ages)
    text = render_page(service.facts(), history, "now").decode()
    return text[text.index("<figure>") : text.index("</figure>")]


def points(figure: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", line)]
        for line in re.findall(r'class=line d="M([^"]*)"', figure)
    ]


def test_a_plot_goes_from_left_to_right_and_its_top_is_the_most() -> None:
    (line,) = points(drawn([20.0, 10.0, 0.0], [0.0, 50.0, 100.0]))

    assert [y for _, y in line] == [79.0, 40.0, 1.0]
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert line[-1][0] == 600.0


def test_a_plot_of_nothing_but_zeros_lies_on_the_ground() -> None:
    (line,) = points(drawn([10.0, 0.0], [0.0, 0.0]))

    assert [y for _, y in line] == [79.0, 79.0]


def test_a_plot_is_cut_where_nobody_looked() -> None:
    first, second = points(drawn([1000.0, 990.0, 10.0, 0.0], [1.0, 1.0, 1.0, 1.0]))

    assert (len(first), len(second)) == (2, 2)


def test_a_plot_says_in_words_what_it_shows() -> None:
    figure = drawn([20.0, 10.0, 0.0], [0.0, 50.0, 20.0])

    assert 'role=img aria-label="Backlog, entries: now 20, max 50 in the last hour"' in figure
    assert "max 50</span>" in figure


@pytest.mark.parametrize("values", [[], [1.0]])
def test_a_plot_without_two_samples_says_so(values: list[float]) -> None:
    figure = drawn([0.0] * len(values), values)

    assert "<svg" not in figure
    assert "two samples" in figure


# Contrast, as WCAG 2.2 defines it.


def _luminance(color: str) -> float:
    def linear(channel: float) -> float:
        return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(color[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def palettes() -> Iterator[dict[str, str]]:
    for block in re.findall(r":root \{([^}]*)\}", page._STYLE):
        yield dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))


def test_every_colour_of_text_can_be_read_in_light_and_in_dark() -> None:
    light, dark = palettes()
    assert light.keys() == dark.keys()
    assert _luminance(light["back"]) > 0.9
    assert _luminance(dark["back"]) < 0.1

    for palette in (light, dark):
        for name in ("front", "quiet", "error", "warning", "good", "line"):
            assert _contrast(palette[name], palette["back"]) >= 4.5, name


def test_no_colour_is_used_that_is_not_in_the_palettes() -> None:
    outside = re.sub(r":root \{[^}]*\}", "", page._STYLE)

    assert not re.findall(r"#[0-9a-f]{3,8}\b(?! \{)|rgb|hsl", outside.replace("#feeds", ""))
