"""Anything at all as settings and as arguments: understood, or refused in lines that say why."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.config import load_settings
from replicator.config.load import environment_variable
from replicator.errors import SettingsInvalid
from tests.faults.fuzzing import (
    ADDRESSES,
    ANY_TEXT,
    ANY_VALUE,
    NUMBERS,
    OUTBOXES,
    URLS,
    fuzz,
    mutated,
)
from tests.support.command import Command, Done, command_line
from tests.support.settings import describe_settings

KEYS = [setting.key for setting in describe_settings() if "[]" not in setting.key]


def plausible(key: str) -> st.SearchStrategy[str]:
    if key.endswith("url"):
        return mutated(URLS | OUTBOXES, ":/@?#+.")
    if key == "tables":
        return mutated(st.just("a.b,c.d"), ",. *")
    if key.endswith("queues"):
        return mutated(st.just('[{"name":"q","bindings":["a.*"],"type":"quorum"}]'), '[]{}":,')
    return mutated(ADDRESSES | NUMBERS | st.sampled_from(["true", "topic", "info"]), ":.")


def refused_in_lines(load: Callable[[], object]) -> None:
    try:
        load()
    except SettingsInvalid as err:
        refused = err
    else:
        return
    assert refused.hint
    lines = str(refused).splitlines()
    assert all(": " in line or line.startswith("no table") for line in lines)


@fuzz
@given(data=st.data())
def test_any_environment_is_understood_or_refused(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(KEYS), max_size=4, unique=True))
    environ = {environment_variable(key): data.draw(plausible(key) | ANY_TEXT) for key in chosen}
    environ.pop("REPLICATOR_CONFIG", None)

    refused_in_lines(lambda: load_settings(environ=environ))


@fuzz
@given(flags=st.dictionaries(st.sampled_from(KEYS) | ANY_TEXT, ANY_VALUE, max_size=4))
def test_any_flag_is_understood_or_refused(flags: dict[str, Any]) -> None:
    flags = {key: value for key, value in flags.items() if key != "tables"}

    refused_in_lines(lambda: load_settings(flags=flags, environ={}))


def toml_of(value: object) -> str:
    """Write what TOML can hold; the rest as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(toml_of, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{toml_of(str(k))}={toml_of(v)}' for k, v in value.items())}}}"
    return json.dumps(str(value))


@fuzz
@given(data=st.data())
def test_any_file_is_understood_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    values = data.draw(
        st.dictionaries(st.sampled_from([*KEYS, "tables", "log"]), ANY_VALUE, max_size=4)
    )
    lines = [f"{key}={toml_of(value)}\n" for key, value in values.items()]
    text = data.draw(mutated(st.just("".join(lines)), '[]{}"=.\n#'))
    path: Path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(data.draw(st.just(text.encode("utf-8", "replace")) | st.binary(max_size=50)))

    refused_in_lines(lambda: load_settings(path, environ={}))


DEEP = "[" * 100_000
LONG = "9" * 5000


@pytest.mark.parametrize(
    "text", [f"x = {DEEP}", f"x = {LONG}", f'x = "{LONG}', f"{'a.' * 9999}a=1"]
)
def test_a_file_that_no_parser_likes_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)

    with pytest.raises(SettingsInvalid):
        load_settings(path, environ={})


@pytest.mark.parametrize("text", [DEEP, LONG, f"[{LONG}]", '["\\ud83d"]', '[{"name":"\\ud83d"}]'])
def test_queues_that_no_parser_likes_are_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"rabbitmq\.queues"):
        load_settings(environ={"REPLICATOR_RABBITMQ__QUEUES": text})


# The command line.

WORDS = ["run", "check", "status", "outbox", "list", "show", "stats", "feed", "gaps", "migrate"]
OPTIONS = ["--table", "--key", "--limit", "--after", "--outbox", "--http", "--config", "--json"]
OPTIONS += ["--state", "--rethinkdb", "--exchange", "--log-level", "--log-format", "--help", "--"]
# What a shell can pass: no NUL; bytes that are no UTF-8 arrive as half pairs.
ARGUMENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ARGUMENTS |= st.binary(max_size=10).map(
    lambda b: b.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
ARGUMENTS |= st.sampled_from(
    [LONG, "9" * 30, "-1", "a.b", "1e5", "\udcff", "x-\udcff", "abcdefgh-1"]
)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    for variable in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("REPLICATOR_HTTP__LISTEN", "off")
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as run:
        yield run


def assert_is_clear(done: Done) -> None:
    assert done.status in (0, 1, 2), done
    assert "Traceback" not in done.err
    assert done.status == 0 or done.err.strip() or done.out.strip()


@fuzz
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=2),
    rest=st.lists(st.sampled_from(OPTIONS) | ARGUMENTS, max_size=4),
)
def test_any_arguments_are_understood_or_refused(
    words: list[str], rest: list[str], cli: Command
) -> None:
    # Neither servers that answer nor services that run: those two stop at the settings.
    stop = ["--table", "no dot"] if words[0] in ("run", "check") else []
    assert_is_clear(cli(*words, *stop, *rest))
