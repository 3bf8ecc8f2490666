"""How commands write: tables and plain words for people, JSON for programs."""

import base64
import datetime as dt
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replicator.domain import deep_json
from replicator.log import redact_text

# A table that goes to a file or into a pipe is not cut at a terminal's width.
_WIDTH_OF_NO_TERMINAL: Final = 200
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def console() -> Console:
    """Return the console of data: standard output."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_NO_TERMINAL
    return Console(highlight=False, width=width)


def note(text: str) -> None:
    """Tell something beside the data."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style="dim"))


def print_error(text: str, hint: str | None = None) -> None:
    """Say what went wrong, a line for each problem, and what to do about it.

    An address in it loses its password: a defect's text may come from any library.
    """
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in redact_text(text).splitlines():
        out.print(Text.assemble(("error: ", "bold red"), line))
    if hint:
        out.print(Text.assemble(("hint: ", "bold"), redact_text(hint)))


def _other(value: object) -> object:
    """Write what AMQP headers may hold and JSON has no form for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def to_json(value: Any) -> bytes:
    """Return JSON on one line; `msgspec.Raw` stays byte for byte as it is."""
    try:
        return msgspec.json.encode(value, enc_hook=_other)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(value), enc_hook=_other)


def _encodable(value: Any) -> Any:
    """Write bytes of an argument or a path that are no text as escapes, as on a terminal."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    return value


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def raw_or_text(body: bytes) -> msgspec.Raw | str:
    """Return JSON as it stands, and what is none as text, so that the whole stays JSON.

    Where JSON is nested deeper than parsers go, only its brackets are looked at.
    """
    text = body.decode("utf-8", "replace")
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        try:
            json.loads(body.decode(), parse_constant=_no_json)  # takes half a surrogate pair
        except ValueError:
            return text
        except RecursionError:
            try:
                deep_json.members(body)
            except ValueError:
                return text
    return msgspec.Raw(body)


def print_line(value: Any) -> None:
    """Print one JSON object on one line, at once."""
    sys.stdout.write(to_json(value).decode() + "\n")
    sys.stdout.flush()


def print_lines(values: Iterable[Any]) -> None:
    """Print JSON objects, one a line."""
    for value in values:
        sys.stdout.write(to_json(value).decode() + "\n")
    sys.stdout.flush()


def print_object(value: Any) -> None:
    """Print one JSON object over several lines."""
    sys.stdout.write(pretty(to_json(value)) + "\n")
    sys.stdout.flush()


def pretty(raw: bytes) -> str:
    """Return JSON over several lines, and as it stands what is none or is nested too deep."""
    try:
        return msgspec.json.format(raw, indent=2).decode()
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table for people; ``empty`` stands where there is no row.

    A column whose name begins with ``#`` has numbers, right-aligned; one that begins with ``…``
    may be folded. The marks are not shown.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        is_number, is_long = column.startswith("#"), column.startswith("…")
        table.add_column(
            column.lstrip("#…"),
            justify="right" if is_number else "left",
            no_wrap=not is_long,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*("" if cell is None else Text(str(cell)) for cell in row))
    if table.row_count:
        console().print(table)
    else:
        note(empty)


def instant(microseconds: int | None) -> str | None:
    """Return an instant as RFC 3339, UTC, with milliseconds."""
    if microseconds is None:
        return None
    moment = dt.datetime.fromtimestamp(microseconds / 1e6, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def human_seconds(seconds: float | None) -> str:
    """Return a duration as people say it, in at most two units."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def human_bytes(count: float) -> str:
    """Return a size as people say it."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def silence_stdout() -> None:
    """Let what is still buffered for a reader that went away go nowhere, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
