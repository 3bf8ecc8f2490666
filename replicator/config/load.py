"""Load the settings: flags over environment over a TOML file over defaults.

Owns the merging and the error messages: one line per problem, with the key, where its value came
from, the value and what is allowed. It never shows a secret: the value of an unknown key is not
shown at all, and a URL is shown without its password.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from replicator.config.files import read_text
from replicator.config.model import Settings
from replicator.config.section import ContradictionError, fields_of
from replicator.errors import SettingsInvalid
from replicator.log import Format, redact_text, redact_url

_PREFIX = "REPLICATOR_"
_CONFIG_VARIABLE = "REPLICATOR_CONFIG"

FLAGS = {
    "tables": "--table",
    "rethinkdb.url": "--rethinkdb",
    "rabbitmq.url": "--rabbitmq",
    "rabbitmq.exchange": "--exchange",
    "outbox.url": "--outbox",
    "http.listen": "--http",
}

# Kubernetes puts the address of each Service into every Pod of its namespace. A Service named
# "replicator" or "replicator-metrics" gives variables that begin like ours: they are ignored.
_SERVICE_LINK = re.compile(
    r"REPLICATOR_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)


def environment_variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return _PREFIX + key.replace(".", "__").upper()


_KEYS = [key for key, _ in fields_of(Settings)]
_SECTIONS = {key.partition(".")[0] for key in _KEYS if "." in key and "[]" not in key}
_VARIABLES = {environment_variable(key): key for key in _KEYS if "[]" not in key}

# By the beginning of pydantic's error type, where its own words are not those of the settings.
_WORDS = {
    "int_": "must be a whole number",
    "bool_": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "path_type": "must be the path of a file",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "model_": "must be a table of settings",
    "missing": "is missing",
}
_MAX_SHOWN = 100
_MAX_FILE_BYTES = 16 * 1024 * 1024
_FILES_OF_SECRETS = ("password_file", "tls_key_file")


class _Given(NamedTuple):
    """A value, and where it was written."""

    value: Any
    origin: str


_Layer = dict[str, _Given]
"""Values by dotted key; an unknown key is left for pydantic to refuse."""


def load_settings(
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    require_tables: bool = True,
) -> Settings:
    """Merge and check all settings. Reads files and changes nothing.

    Args:
        config_file: The TOML file; by default the one that ``REPLICATOR_CONFIG`` names, if any.
        flags: Values from the command line by dotted key; None if a flag was not given.
        environ: The environment; by default the process's.
        require_tables: Whether at least one table must be named.

    Raises:
        SettingsInvalid: One line for each problem found.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    from_file = _from_file(config_file or environ.get(_CONFIG_VARIABLE), problems)
    selecting = _from_environment(environ, problems) | _from_flags(flags or {})
    given = from_file | selecting
    tables = _tables(from_file.get("tables", _Given([], "")), selecting.get("tables"))
    try:
        settings = _checked(given, tables, problems)
        if require_tables:
            settings.require_tables()
    except SettingsInvalid as err:
        err.log_format = _log_format(given)
        raise
    return settings


def _checked(given: _Layer, tables: list[_Given], problems: list[str]) -> Settings:
    """Return the settings; raises SettingsInvalid for these problems and for what is found."""
    try:
        settings = Settings.model_validate(_nested(given, tables))
    except ValidationError as err:
        problems += [_problem(error, given, tables) for error in err.errors(include_url=False)]
    if problems:
        # Without the cause: pydantic's error holds the values, which may be secrets. A name may be
        # an address, when somebody mixes them up.
        text = redact_text("\n".join(map(_one_line, problems)))
        raise SettingsInvalid(text, hint="docs/configuration.md lists every setting")
    return settings


def _log_format(given: _Layer) -> Format:
    """Return the setting although another is wrong; the default if it is wrong itself."""
    text = str(given["log.format"].value).lower() if "log.format" in given else ""
    return next((known for known in get_args(Format) if known == text), "auto")


def _one_line(text: str) -> str:
    """Escape a name that would otherwise look like several lines."""
    return text if text.isprintable() else repr(text)[1:-1]


# Where values come from.


def _from_file(path: Path | str | None, problems: list[str]) -> _Layer:
    """Read the TOML file into dotted keys."""
    if not path:  # not set, or empty, which `_from_environment` refuses
        return {}
    origin = f"file {path}"
    layer: _Layer = {}
    for name, value in _read_toml(Path(path), origin, problems).items():
        if name == "tables" and not isinstance(value, list):
            problems.append(f"tables ({origin}): must be a list, written [[tables]]")
        elif name not in _SECTIONS:
            layer[name] = _Given(value, origin)
        elif isinstance(value, dict):
            layer |= {f"{name}.{inner}": _Given(item, origin) for inner, item in value.items()}
        else:
            problems.append(f"{name} ({origin}): is a section, written [{name}]")
    return layer


def _read_toml(path: Path, origin: str, problems: list[str]) -> dict[str, Any]:
    try:
        text = read_text(path, max_bytes=_MAX_FILE_BYTES)
    except ValueError as err:
        problems.append(f"{origin}: {err}")
        return {}
    try:
        return tomllib.loads(text)
    except ValueError as err:  # including a number with more digits than Python takes
        problems.append(f"{origin}: is not TOML: {err}")
    except RecursionError:
        problems.append(f"{origin}: is nested too deeply")
    return {}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    """Read all variables that begin with REPLICATOR_; an unknown one is a problem."""
    layer: _Layer = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(_PREFIX) or (variable == _CONFIG_VARIABLE and text):
            continue
        origin = f"environment variable {variable}"
        key = "config" if variable == _CONFIG_VARIABLE else _VARIABLES.get(variable)
        if key is None:
            if not _SERVICE_LINK.fullmatch(variable):
                problems.append(f"{origin}: {_unknown(variable, _VARIABLES)}")
        elif not text:
            problems.append(f"{key} ({origin}): is empty: unset the variable for the default")
        elif key == "tables":
            layer[key] = _Given([name.strip() for name in text.split(",") if name.strip()], origin)
        elif key == "rabbitmq.queues":
            try:
                # As bytes: a variable may have some that are not text.
                layer[key] = _Given(from_json(text.encode("utf-8", "surrogateescape")), origin)
            except ValueError as err:
                problems.append(f"{key} ({origin}): is not JSON: {err}")
        else:
            layer[key] = _Given(text, origin)
    return layer


def _from_flags(flags: Mapping[str, Any]) -> _Layer:
    return {
        key: _Given(value, f"flag {FLAGS.get(key, '--' + key.replace('.', '-'))}")
        for key, value in flags.items()
        if value is not None and not (key == "tables" and not value)
    }


def _tables(from_file: _Given, selected: _Given | None) -> list[_Given]:
    """Return the selected tables, with the options that the file has for them.

    Entries of the file that are not selected are left out, so that a file may describe more
    tables than one replicator has.
    """
    entries = [
        _Given({"name": entry} if isinstance(entry, str) else entry, from_file.origin)
        for entry in from_file.value
    ]
    if selected is None:
        return entries
    options = {
        str(each.value.get("name")): each for each in entries if isinstance(each.value, dict)
    }
    return [options.get(name, _Given({"name": name}, selected.origin)) for name in selected.value]


def _nested(given: _Layer, tables: list[_Given]) -> dict[str, Any]:
    """Turn dotted keys into the nested form of the models."""
    values: dict[str, Any] = {}
    for key, (value, _) in given.items():
        section, dot, name = key.partition(".")
        if dot and section in _SECTIONS:
            values.setdefault(section, {})[name] = value
        else:
            values[key] = value
    return values | {"tables": [table.value for table in tables]}


# What is wrong.


def _problem(error: ErrorDetails, given: _Layer, tables: list[_Given]) -> str:
    """Describe one problem in one line: key, value, origin, and what is allowed."""
    location = [*error["loc"]]
    value: Any = error["input"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ContradictionError):
        location.append(cause.key)
        value = value.get(cause.key)
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)[1:]
    # A problem within a list comes from where the list was written.
    origin = next(
        (given[each].origin for each in (key, key.partition("[")[0]) if each in given), "default"
    )
    shown = key
    match location:
        case ["tables", int(position), *rest]:
            origin = tables[position].origin
            if isinstance(tables[position].value, dict) and rest != ["name"]:
                name = tables[position].value.get("name", position)
                shown = key.replace(f"[{position}]", f"[{name}]", 1)
    if error["type"] == "extra_forbidden":
        # Its value is not shown: it may be a password.
        pattern = re.sub(r"\[\d+\]", "[]", key)
        return f"{shown} ({origin}): {_unknown(pattern, [*_KEYS, *_SECTIONS])}"
    return f"{shown}{_shown(key, value)} ({origin}): {_reason(error)}"


def _shown(key: str, value: Any) -> str:
    """Format a value for an error, unless it may be a secret or is too large to help."""
    if key.endswith(_FILES_OF_SECRETS) and not os.path.exists(str(value)):  # noqa: PTH110
        # It may be the secret itself. os.path, since Path raises for a name that is too long.
        return ""
    if isinstance(value, str):
        safe = redact_url(value) if key.endswith("url") else redact_text(value)
        return f" = {safe if len(safe) <= _MAX_SHOWN else safe[:_MAX_SHOWN] + '…'!r}"
    return f" = {json.dumps(value)}" if isinstance(value, bool | int | float) else ""


def _reason(error: ErrorDetails) -> str:
    """Return what is allowed, in the words of the settings."""
    said = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return next((words for kind, words in _WORDS.items() if error["type"].startswith(kind)), said)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return "is not a setting" + (f"; did you mean {near[0]}?" if near else "")
