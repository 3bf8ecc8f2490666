"""Logs: one form for all, one line per event, no passwords."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import SourceUnavailable
from replicator.log import WarnOnce, configure_logging, get_logger, redact_text, redact_url


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("replicator")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)

    get_logger("source").info("feed ready", table="change_example.mytable", documents=3)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "component": "source",
        "event": "feed ready",
        "level": "info",
        "table": "change_example.mytable",
        "documents": 3,
    }


def test_a_terminal_gets_lines_for_people() -> None:
    stream = Terminal()
    configure_logging(stream=stream)

    get_logger("source").info("feed ready", table="a.b")

    assert "feed ready" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_utf_8_whatever_the_locale(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    configure_logging("json", stream=stream)

    get_logger("source").info("feed ready", key="ü€\x9b👋")

    stream.flush()
    (line,) = stream.buffer.getvalue().splitlines()  # type: ignore[attr-defined]
    assert json.loads(line)["key"] == "ü€\x9b👋"


@pytest.mark.parametrize("form", ["console", "json"])
def test_text_of_others_does_not_steer_a_terminal(form: Any) -> None:
    stream = Terminal()
    configure_logging(form, stream=stream)

    get_logger("source").info("feed\r\n lost", error="\x1b]0;x\x07\x9b\u202e", of=["\x1b[1m"])

    assert len(stream.getvalue().splitlines()) == 1
    assert not set(stream.getvalue().replace("\x1b[", "")) & set("\x07\r\x9b\u202e\x1b")
    assert "]0;x" in stream.getvalue()


def test_the_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")

    get_logger("cli").info("started")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "started"


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging("json", "warning", stream)

    get_logger("source").info("feed ready")
    get_logger("source").warning("feed lost")

    assert [line["event"] for line in lines(stream)] == ["feed lost"]


@pytest.mark.parametrize("level", ["debug", "info"])
def test_libraries_are_heard_from_warning_up_at_every_level(level: Any) -> None:
    stream = io.StringIO()
    configure_logging("json", level, stream)

    logging.getLogger("alembic.runtime").info("connecting")
    logging.getLogger("alembic.runtime").warning("lost %s", "it")

    (line,) = lines(stream)
    assert (line["event"], line["component"], line["level"]) == (
        "lost it",
        "alembic.runtime",
        "warning",
    )


@pytest.mark.parametrize(
    "driver", ["rethinkdb.net", "pika.adapters.blocking_connection", "tornado.general"]
)
def test_what_is_told_as_an_error_or_is_a_clients_fault_is_not_heard(driver: str) -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    logging.getLogger(driver).error("[Errno 107] Transport endpoint is not connected")
    logging.getLogger("alembic").error("something else")

    assert [line["event"] for line in lines(stream)] == ["something else"]


def test_the_last_configuration_counts() -> None:
    first, second = io.StringIO(), io.StringIO()
    logger = get_logger("source")
    configure_logging("json", stream=first)
    configure_logging("json", stream=second)

    logger.info("feed ready")

    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def fail_with_a_cause() -> None:
    raise RuntimeError("broker lost") from OSError("no route to\namqp://guest:s3cret@host/")


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_and_its_cause_are_one_line(form: Any) -> None:
    stream = io.StringIO()
    configure_logging(form, stream=stream)

    try:
        fail_with_a_cause()
    except RuntimeError:
        get_logger("publisher").exception("connection lost")

    assert len(stream.getvalue().splitlines()) == 1
    expected = "RuntimeError: broker lost <- OSError: no route to amqp://guest:***@host/"
    assert expected in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_debug_keeps_the_trace_and_still_hides_passwords(form: Any) -> None:
    stream = io.StringIO()
    configure_logging(form, "debug", stream)

    try:
        fail_with_a_cause()
    except RuntimeError:
        get_logger("publisher").exception("connection lost")

    assert "Traceback" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()


def test_a_library_s_exception_is_one_line_too() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    try:
        fail_with_a_cause()
    except RuntimeError:
        logging.getLogger("sqlalchemy").exception("failed")

    (line,) = lines(stream)
    assert line["error"].startswith("RuntimeError: broker lost <- ")


def test_passwords_are_hidden_wherever_they_stand() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    get_logger("cli").info(
        "settings read",
        password="s3cret",
        db_password="s3cret",
        url="amqp://guest:s3cret@host/",
        outbox_url="postgresql://host/db?user=x&password=s3cret",
        nested={"password": "s3cret", "hosts": ["amqp://a:s3cret@b/"]},
        error=ValueError("rethinkdb://admin:s3cret@host refused"),
        text="tried amqps://guest:s3cret@host:5671/x and failed",
    )

    (line,) = lines(stream)
    assert "s3cret" not in stream.getvalue()
    assert line["url"] == "amqp://guest:***@host/"
    assert line["text"] == "tried amqps://guest:***@host:5671/x and failed"


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("amqp://guest:guest@h:5672/%2F", "amqp://guest:***@h:5672/%2F"),
        ("amqp://guest@h/", "amqp://guest@h/"),
        ("amqp://h1:5672,h2:5672/x", "amqp://h1:5672,h2:5672/x"),
        ("amqp://[::1]:5672/x", "amqp://[::1]:5672/x"),
        ("sqlite:///replicator.db", "sqlite:///replicator.db"),
        ("amqp://u:p@ss/w?rd#@h", "amqp://u:***@h"),
        ("amqp://h1,u:p@h2", "amqp://h1,u:***@h2"),
        ("u:p@h", "u:***@h"),
        ("amqp://u:p", "amqp://u:***"),
        ("postgresql://h/d?password=p&x=1", "postgresql://h/d?password=***&x=1"),
    ],
)
def test_a_url_is_shown_without_its_password_even_when_it_is_broken(url: str, safe: str) -> None:
    assert redact_url(url) == safe


@given(password=st.text(min_size=3).filter(lambda text: text not in "amqp://user:***@host:5672/v"))
def test_no_password_survives_redaction(password: str) -> None:
    assert password not in redact_url(f"amqp://user:{password}@host:5672/v")


def test_text_without_a_url_is_left_alone() -> None:
    text = "password=x stays: it is nobody's URL, user:x@host too"

    assert redact_text(text) == text


def test_hosts_that_fail_in_turn_are_warned_of_once_until_one_works() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    warnings = WarnOnce(get_logger("source"), "feed is lost")
    first, second = SourceUnavailable("a: refused", hint="look"), SourceUnavailable("b: refused")

    assert warnings.warn(first)
    assert warnings.warn(second)
    assert not warnings.warn(first)
    assert not warnings.warn(second)
    warnings.forget()
    assert warnings.warn(first)

    assert [(line["event"], line["error"], line["hint"]) for line in lines(stream)] == [
        ("feed is lost", "a: refused", "look"),
        ("feed is lost", "b: refused", None),
        ("feed is lost", "a: refused", "look"),
    ]
