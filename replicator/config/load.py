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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from replicator.config.describe import ENVIRONMENT_PREFIX, describe_settings, environment_variable
from replicator.config.model import Settings
from replicator.config.section import ContradictionError
from replicator.errors import SettingsInvalid
from replicator.log import redact_text, redact_url

CONFIG_VARIABLE = "REPLICATOR_CONFIG"

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

_SECTIONS = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
_KEYS = [setting.key for setting in describe_settings() if "[]" not in setting.key]
_VARIABLES = {environment_variable(key): key for key in _KEYS}

# By the beginning of pydantic's error type.
_ALLOWED = {
    "int_": "must be a whole number",
    "bool_": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "path_type": "must be the path of a file",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "model_": "must be a table of settings",
}
_LONGEST_SHOWN = 100
_FILES_OF_SECRETS = ("password_file", "tls_key_file")


class _Given(NamedTuple):
    """A value, and where it was written."""

    value: Any
    origin: str


_Layer = dict[str, _Given]


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
    from_file = _from_file(config_file, environ, problems)
    from_environment = _from_environment(environ, problems)
    from_flags = _from_flags(flags or {}, problems)
    given = from_file | from_environment | from_flags
    selected = (from_environment | from_flags).get("tables")
    tables = _merge_tables(from_file.get("tables"), selected)
    merged = {"tables": _Given([table.value for table in tables], "")}
    try:
        settings = Settings.model_validate(_nested(given | merged))
    except ValidationError as err:
        problems += [_problem(error, given, tables) for error in err.errors(include_url=False)]
    if problems:
        # Without the cause: pydantic's error holds the values, which may be secrets. A name may be
        # an address, when somebody mixes them up.
        text = redact_text("\n".join(problems))
        raise SettingsInvalid(text, hint="docs/configuration.md lists every setting")
    if require_tables and not settings.tables:
        raise SettingsInvalid("no table to replicate is named", hint="use --table DB.TABLE")
    return settings


def _from_file(path: Path | None, environ: Mapping[str, str], problems: list[str]) -> _Layer:
    """Read the TOML file into dotted keys."""
    if path is None:
        if CONFIG_VARIABLE not in environ:
            return {}
        path = Path(environ[CONFIG_VARIABLE])
    origin = f"file {path}"
    document = _read_toml(path, origin, problems)
    layer: _Layer = {}
    for name, value in document.items():
        if name == "tables" and not isinstance(value, list):
            problems.append(f"tables ({origin}): must be a list, written [[tables]]")
        elif name not in _SECTIONS:
            layer[name] = _Given(value, origin)
        elif isinstance(value, dict):
            layer |= {f"{name}.{inner}": _Given(item, origin) for inner, item in value.items()}
        else:
            problems.append(f"{name} ({origin}): is a section, written [{name}]")
    return _known(layer, problems)


def _read_toml(path: Path, origin: str, problems: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as err:
        problems.append(f"{origin}: cannot be read: {err.strerror}")
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        problems.append(f"{origin}: is not UTF-8 text (at line {line})")
    except ValueError as err:  # including a number with more digits than Python takes
        problems.append(f"{origin}: is not TOML: {_one_line(str(err))}")
    except RecursionError:
        problems.append(f"{origin}: is nested too deeply")
    return {}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    """Read all variables that begin with REPLICATOR_; an unknown one is a problem."""
    layer: _Layer = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        origin = f"environment variable {variable}"
        key = _VARIABLES.get(variable)
        if key is None:
            if not _SERVICE_LINK.fullmatch(variable):
                problems.append(f"{origin}: is not a setting{_near_variable(variable)}")
        elif not text:
            problems.append(f"{key} ({origin}): is empty: unset the variable for the default")
        elif key == "tables":
            layer[key] = _Given([name.strip() for name in text.split(",") if name.strip()], origin)
        elif key == "rabbitmq.queues":
            try:
                layer[key] = _Given(json.loads(text), origin)
            except ValueError as err:
                problems.append(f"{key} ({origin}): is not JSON: {err}")
            except RecursionError:
                problems.append(f"{key} ({origin}): is nested too deeply")
        else:
            layer[key] = _Given(text, origin)
    return layer


def _from_flags(flags: Mapping[str, Any], problems: list[str]) -> _Layer:
    layer = {
        key: _Given(value, f"flag {FLAGS.get(key, '--' + key.replace('.', '-'))}")
        for key, value in flags.items()
        if value is not None and not (key == "tables" and not value)
    }
    return _known(layer, problems)


def _known(layer: _Layer, problems: list[str]) -> _Layer:
    """Return the known keys. The value of an unknown one is not shown: it may be a password."""
    problems += [
        f"{_one_line(key)} ({_one_line(layer[key].origin)}): is not a setting"
        f"{_suggestion(key, [*_KEYS, *_SECTIONS])}"
        for key in layer
        if key not in _KEYS
    ]
    return {key: given for key, given in layer.items() if key in _KEYS}


def _merge_tables(from_file: _Given | None, selected: _Given | None) -> list[_Given]:
    """Return the selected tables, with the options that the file has for them.

    Entries of the file that are not selected are left out, so that a file may describe more
    tables than one replicator has.
    """
    entries: list[_Given] = []
    if from_file is not None:
        entries = [
            _Given({"name": entry} if isinstance(entry, str) else entry, from_file.origin)
            for entry in from_file.value
        ]
    if selected is None:
        return entries
    options = {
        entry.value["name"]: entry
        for entry in entries
        if isinstance(entry.value, dict) and isinstance(entry.value.get("name"), str)
    }
    return [options.get(name, _Given({"name": name}, selected.origin)) for name in selected.value]


def _nested(layer: _Layer) -> dict[str, Any]:
    """Turn dotted keys into the nested form of the models."""
    values: dict[str, Any] = {}
    for key, (value, _) in layer.items():
        section, dot, name = key.partition(".")
        if dot:
            values.setdefault(section, {})[name] = value
        else:
            values[key] = value
    return values


def _problem(error: ErrorDetails, given: _Layer, tables: list[_Given]) -> str:
    """Describe one problem in one line: key, value, origin, and what is allowed."""
    location = list(error["loc"])
    value: Any = error["input"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ContradictionError):
        location.append(cause.key)
        value = value.get(cause.key) if isinstance(value, dict) else None
    key = pattern = ""
    for step in location:
        if isinstance(step, int):
            pattern += "[]"
            key += f"[{_label(location, step, tables) if key == 'tables' else step}]"
        else:
            pattern += f".{step}" if key else step
            key += f".{step}" if key else step
    origin = next((given[name].origin for name in _prefixes(pattern) if name in given), "default")
    if location[0] == "tables" and len(location) > 1 and isinstance(location[1], int):
        origin = tables[location[1]].origin
    key = _one_line(key)
    if error["type"] == "extra_forbidden":
        known = [setting.key for setting in describe_settings()]
        return f"{key} ({origin}): is not a setting{_suggestion(pattern, known)}"
    if error["type"] == "missing":
        return f"{key} ({origin}): is missing"
    return f"{key}{_shown(pattern, value)} ({origin}): {_reason(error)}"


def _one_line(text: str) -> str:
    """Escape a name from TOML that would otherwise look like several lines."""
    return text if text.isprintable() else repr(text)[1:-1]


def _label(location: list[str | int], position: int, tables: list[_Given]) -> str | int:
    """Return a table's name, or its position if the name is what is wrong."""
    entry = tables[position].value
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and location[-1] != "name" else position


def _prefixes(pattern: str) -> Iterator[str]:
    """Yield a key, and the key of the list that it is in."""
    yield pattern
    yield pattern.partition("[")[0]


def _shown(pattern: str, value: Any) -> str:
    """Format a value for an error, unless it may be a secret or is too large to help."""
    if pattern.endswith(_FILES_OF_SECRETS) and not os.path.exists(str(value)):  # noqa: PTH110
        # It may be the secret itself. os.path, since Path raises for a name that is too long.
        return ""
    if isinstance(value, str):
        safe = redact_url(value) if pattern.endswith("url") else redact_text(value)
        return f" = {safe if len(safe) <= _LONGEST_SHOWN else safe[:_LONGEST_SHOWN] + '…'!r}"
    if isinstance(value, bool | int | float):
        return f" = {json.dumps(value)}"
    return ""


def _reason(error: ErrorDetails) -> str:
    """Return what is allowed, in the words of the settings."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    for beginning, allowed in _ALLOWED.items():
        if kind.startswith(beginning):
            return allowed
    return error["msg"].replace("Input should", "must")


def _suggestion(unknown: str, known: Iterable[str]) -> str:
    near = _nearest(unknown, known)
    return f"; did you mean {near}?" if near else ""


def _near_variable(unknown: str) -> str:
    near = _nearest(unknown.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), _KEYS)
    return f"; did you mean {environment_variable(near)}?" if near else ""


def _nearest(unknown: str, known: Iterable[str]) -> str | None:
    """Find the nearest known key, within the same section first."""
    section, _, name = unknown.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return siblings[near[0]]
    return next(iter(difflib.get_close_matches(unknown, known, n=1, cutoff=0.8)), None)
