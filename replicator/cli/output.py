"""Output of the commands: tables and words for people, JSON for programs."""

import base64
import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replicator.domain import deep_json
from replicator.domain.instants import shown
from replicator.domain.words import duration, size
from replicator.log import redact_text, visible

Facts = dict[str, Any]
"""What a command says of one thing, under the keys that its JSON has."""
Column = str | tuple[str, Callable[[Facts], object]]
"""A heading, and the fact below it: ``did=action``, ``action`` for the fact of that name, or a
function. Facts named ``bytes`` or ``…_seconds`` are shown in words.

A heading that begins with ``#`` is right-aligned, for numbers; one with ``,`` has its thousands
separated as well; one that begins with ``…`` may be folded. The marks are not shown.
"""

# A table in a file or a pipe is not cut at a terminal's width.
_WIDTH_WITHOUT_TERMINAL: Final = 200
_MARKS: Final = "#,…"
_JSON_WORDS: Final = re.compile(
    rb'(?:"(?:[^"\\\x00-\x1f]|\\["\\/bfnrtu])*+"|[][{}:,\s]'
    rb"|(?:true|false|null|-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?)(?![\w.+-]))*+"
)


def facts_of(row: object, keys: str) -> Facts:
    """Return attributes of a row as JSON has them: instants as text, a primary key as it is."""
    return {key: _fact(key, getattr(row, key)) for key in keys.split()}


def _fact(key: str, value: Any) -> Any:
    if key == "key" and value is not None:
        return msgspec.Raw(value.encode())
    return shown(value) if key == "at" or key.endswith("_at") else value


def console() -> Console:
    """Return the console for data: standard output."""
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(highlight=False, width=width)


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """Go on: rich would end the process, and close the standard output instead."""


def _tell(text: Text) -> None:
    # Where nobody can be told, the data and the exit status are still right.
    with contextlib.suppress(OSError):
        _Stderr(stderr=True, highlight=False, soft_wrap=True).print(text)


def words(*parts: str | tuple[str, str]) -> Text:
    """Return one line of text and its styles; control characters, line ends too, become escapes.

    All text of documents, messages, servers and names goes through here on its way to a terminal,
    which would obey what is in it.
    """
    return Text.assemble(
        *(visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts)
    )


def say(text: Text | str) -> None:
    """Print a line of data for people, whatever its length."""
    console().print(words(text) if isinstance(text, str) else text, soft_wrap=True)


def say_body(body: bytes) -> None:
    """Print a body for people: JSON indented, anything else as text."""
    console().print(Text(visible(pretty(body), keeps_lines=True)), soft_wrap=True)


def note(text: str) -> None:
    """Print a note beside the data, on standard error."""
    _tell(words((text, "dim")))


def print_error(text: str, hint: str | None = None) -> None:
    """Print what went wrong, a line for each problem, and what to do about it.

    Passwords of addresses are hidden: the text of a defect may come from any library.
    """
    for line in redact_text(text).splitlines():
        _tell(words(("error: ", "bold red"), line))
    if hint:
        _tell(words(("hint: ", "bold"), redact_text(hint)))


# Data, for programs and for people.


def print_rows(
    rows: Iterable[Facts], columns: Sequence[Column], *, as_json: bool, empty: str
) -> None:
    """Print JSON, an object a line, or a table; or the note ``empty`` if a table has no rows."""
    if as_json:
        print_lines(rows)
        return
    made = table(rows, columns)
    if made.row_count:
        console().print(made)
    else:
        note(empty)


def table(rows: Iterable[Facts], columns: Sequence[Column]) -> Table:
    """Return a table for people."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    cells: list[Callable[[Facts], object]] = []
    for column in columns:
        heading, cell = column if isinstance(column, tuple) else _named(column)
        cells.append(cell)
        made.add_column(
            heading.lstrip(_MARKS),
            justify="right" if heading[0] in "#," else "left",
            no_wrap=not heading.startswith("…"),
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(_cell(cell(row)) for cell in cells))
    return made


def _named(column: str) -> tuple[str, Callable[[Facts], object]]:
    """Return the heading of a column, and what reads the fact below it."""
    heading, _, key = column.partition("=")
    key = key or heading.lstrip(_MARKS).replace(" ", "_")
    if key.endswith("seconds"):
        return heading, lambda facts: duration(facts[key])
    if key == "bytes":
        return heading, lambda facts: size(facts[key])
    if heading.startswith(","):
        return heading, lambda facts: f"{facts[key]:,}"
    return heading, lambda facts: facts[key]


def _cell(value: object) -> Text:
    if isinstance(value, msgspec.Raw):
        value = bytes(value).decode()
    return value if isinstance(value, Text) else words("" if value is None else str(value))


def print_line(value: Any) -> None:
    """Print one JSON object on one line, and flush."""
    print_lines([value])


def print_lines(values: Iterable[Any]) -> None:
    """Print JSON objects, one on each line."""
    for value in values:
        _write(to_json(value))
    sys.stdout.flush()


def print_object(value: Any) -> None:
    """Print one JSON object, indented."""
    _write(pretty(to_json(value)).encode())
    sys.stdout.flush()


def _write(data: bytes) -> None:
    """Write JSON in UTF-8, whatever the locale is."""
    if sys.stdout.isatty():  # the same JSON, with escapes for what JSON need not escape
        data = visible(data.decode(), keeps_lines=True).encode()
    sys.stdout.buffer.write(data + b"\n")


# JSON.


def to_json(value: Any) -> bytes:
    """Return JSON on one line; `msgspec.Raw` stays as it is, byte for byte."""
    try:
        return msgspec.json.encode(value, enc_hook=_other)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(value), enc_hook=_other)


def _other(value: object) -> object:
    """Convert a value of an AMQP header that JSON has no form for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _encodable(value: Any) -> Any:
    """Replace bytes of an argument or a path that are not text by escapes, as on a terminal."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    return value


def raw_or_text(body: bytes) -> msgspec.Raw | str:
    """Return JSON as it stands, on one line, and anything else as text: the whole is JSON."""
    try:
        _require_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")
    return msgspec.Raw(b" ".join(body.splitlines()))


def _require_json(body: bytes) -> None:
    """Raise ValueError for what is not JSON; if nested too deeply, its brackets and words count.

    Unlike msgspec, the standard library takes half a surrogate pair.
    """
    try:
        json.loads(body.decode(), parse_constant=_refuse)
    except RecursionError:
        deep_json.members(body)
        if not _JSON_WORDS.fullmatch(body):
            raise ValueError("it has words that JSON has not") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def pretty(raw: bytes) -> str:
    """Return JSON indented; unchanged if it is not JSON or is nested too deeply."""
    try:
        return msgspec.json.format(raw, indent=2).decode()
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")
