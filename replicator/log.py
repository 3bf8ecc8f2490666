"""Logging: one line per event on standard error, for people on a terminal and as JSON elsewhere.

What is logged through `get_logger` and what libraries log through the standard library leave by
the same handler in the same form. This module keeps one invariant: no password is written,
neither as a value of its own nor inside a URL.
"""

import codecs
import logging
import re
import sys
from collections import deque
from collections.abc import Mapping
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from replicator.errors import ReplicatorError

Format = Literal["auto", "console", "json"]
Level = Literal["debug", "info", "warning", "error"]

HIDDEN = "***"

_JSON = "json"  # the name of the handler that writes it
_MAX_SAID = 16
# Every loss that the drivers log is an exception too, and is told once, by us. Tornado logs what
# clients of the HTTP server do wrong.
_UNHEARD = ("pika", "rethinkdb", "tornado.general")

_PASSWORD_KEY = re.compile(r"(^|_)(password|passwd|secret|token)$", re.IGNORECASE)
_PASSWORD_PARAMETER = re.compile(r"((?:password|passwd|secret|token)=)[^&\s]*", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"(\w://[^\s:@]*):\S*@")
# Control characters, those that end a line, and those that turn the direction of text: a terminal
# obeys them. A tab and a line feed are what text of several lines consists of.
_OBEYED = [*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\u{code:04x}" for code in _OBEYED}
_ESCAPES_BUT_LINES = {code: text for code, text in _ESCAPES.items() if chr(code) not in "\t\n"}
_PORT_THAT_IS_NONE = re.compile(r":(?!\d+(?:[,/?#]|$))[^,/?#\[\]]*(?=[,/?#]|$)")


def redact_url(url: str) -> str:
    """Give ``url`` without its password, also when it is broken.

    It may hide too much of a broken URL, never too little: whatever could have been meant as a
    password goes.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    userinfo, at, hosts = rest.rpartition("@")
    if at:
        user, colon, _ = userinfo.partition(":")
        rest = f"{user}{colon}{HIDDEN if colon else ''}@{hosts}"
    else:
        authority, slash, path = rest.partition("/")
        rest = _PORT_THAT_IS_NONE.sub(f":{HIDDEN}", authority) + slash + path
    return _PASSWORD_PARAMETER.sub(rf"\1{HIDDEN}", scheme + separator + rest)


def redact_text(text: str) -> str:
    """Give ``text`` with the passwords of all URLs in it hidden."""
    if "://" not in text:
        return text
    text = _URL_WITH_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    return _PASSWORD_PARAMETER.sub(rf"\1{HIDDEN}", text)


def visible(text: str, *, keeps_lines: bool = False) -> str:
    """Give ``text`` with what a terminal would obey as escapes, as JSON has them."""
    return text.translate(_ESCAPES_BUT_LINES if keeps_lines else _ESCAPES)


def _redacted(key: str, value: object) -> object:
    if _PASSWORD_KEY.search(key) and value is not None:
        return HIDDEN
    if isinstance(value, str):
        return redact_url(value) if key == "url" or key.endswith("_url") else redact_text(value)
    if isinstance(value, Mapping):
        return {name: _redacted(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, item) for item in value]
    if isinstance(value, BaseException):
        return redact_text(_one_line(value))
    return value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# Processors of structlog.


def _redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Hide passwords: values named so, and those inside URLs."""
    return {key: _redacted(key, value) for key, value in event_dict.items()}


def _flatten_exception(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Put an exception and its causes on one line."""
    # As structlog and the standard library take it: an exception, its three parts, or a wish.
    error = event_dict.pop("exc_info", None) or None
    if error is True:
        error = sys.exception()
    elif isinstance(error, tuple):
        error = error[1]
    links = []
    while error is not None:
        links.append(_one_line(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if links:
        event_dict["error"] = " <- ".join(links)
    return event_dict


def _make_visible(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Let no text of others steer the terminal; a trace keeps its lines."""
    return {
        key: visible(value, keeps_lines=key == "exception") if isinstance(value, str) else value
        for key, value in event_dict.items()
    }


def _name_component(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Name the library that a line is from."""
    event_dict.setdefault("component", event_dict["_record"].name)
    return event_dict


def configure_logging(
    format: Format = "auto",  # noqa: A002 - the setting's name
    level: Level = "info",
    stream: TextIO | None = None,
) -> None:
    """Send all logs to ``stream`` (default: standard error). Safe to repeat: the last call counts.

    ``auto`` means ``console`` on a terminal and ``json`` elsewhere. Libraries are heard from
    ``warning`` up, whatever the level. A trace is for whoever debugs the program: it is written at
    the level ``debug`` only.
    """
    out = stream if stream is not None else sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    has_json = format == "json" or (format == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.name = _JSON if has_json else None
    handler.addFilter(lambda record: not record.name.startswith(_UNHEARD))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_component],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info if level == "debug" else _flatten_exception,
                _redact,
                *_renderers(out, has_json=has_json),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("replicator").setLevel(threshold)


def _renderers(out: TextIO, *, has_json: bool) -> list[Processor]:
    is_terminal = out.isatty()
    if not has_json:
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain)
        return [_make_visible, console]
    # JSON is UTF-8, whatever the locale is: what the stream would write otherwise is escaped.
    is_plain = not is_terminal and codecs.lookup(out.encoding or "utf-8").name == "utf-8"
    return [structlog.processors.JSONRenderer(ensure_ascii=not is_plain, default=str)]


def is_json() -> bool:
    """Return whether `configure_logging` has chosen JSON; False before its first call."""
    return any(handler.name == _JSON for handler in logging.getLogger().handlers)


def get_logger(component: str) -> FilteringBoundLogger:
    """Give the logger of a part of the program; ``component`` is a value on each of its lines."""
    name = f"replicator.{component}"
    return cast("FilteringBoundLogger", structlog.get_logger(name, component=component))


class WarnOnce:
    """Warns of an error that is tried again, once until `forget`.

    Several hosts fail in turn, each in its own way: none of it is news the second time.
    """

    def __init__(self, log: FilteringBoundLogger, event: str) -> None:
        """Bind to a logger and to what each warning says beside the error."""
        self._log = log
        self._event = event
        self._said: deque[str] = deque(maxlen=_MAX_SAID)

    def warn(self, err: ReplicatorError) -> bool:
        """Log an error and its hint if it is news. Returns whether it was."""
        text = str(err)
        if text in self._said:
            return False
        self._said.append(text)
        self._log.warning(self._event, error=text, hint=err.hint)
        return True

    def forget(self) -> None:
        """Let the next error be news: what failed has worked since."""
        self._said.clear()
