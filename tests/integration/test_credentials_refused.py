"""Addresses and settings that are refused are told without the passwords in them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import ReplicatorError
from tests.support.command import Command, command_line
from tests.support.markers import IN_URL, MARKER, PASSWORD, assert_hidden

# What people mistype and mix up; in each the marker is what they meant as the password.
_BROKEN_URLS = (
    "SCHEME://u:{raw}@h",
    "SCHEME://u:{marker}",
    "SCHEME://u:{marker}@",
    "SCHEME://u:{marker}@h:port",
    "SCHEME://u:{marker}@h:1/a/b",
    "SCHEME://u:{marker}@h?password={marker}",
    "SCHEME://u:{marker}%zz@h",
    "SCHEME://u:{marker}%ff@h",
    "SCHEME://u:{marker}@@h",
    "http://u:{marker}@h",
    "SCHEME//u:{marker}@h",
    "u:{marker}@h",
    "SCHEME://u:{marker}@h\nx",
)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    monkeypatch.setenv("REPLICATOR_TABLES", "a.b")
    monkeypatch.setenv("REPLICATOR_OUTBOX__URL", f"sqlite:///{tmp_path / 'outbox.db'}")
    monkeypatch.setenv("REPLICATOR_LOG__LEVEL", "debug")
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.mark.parametrize("written", _BROKEN_URLS)
@pytest.mark.parametrize(
    ("section", "scheme"), [("rethinkdb", "rethinkdb"), ("rabbitmq", "amqp"), ("rabbitmq", "amqps")]
)
def test_a_broken_url_is_refused_without_its_password(
    cli: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    written: str,
    section: str,
    scheme: str,
) -> None:
    url = written.replace("SCHEME", scheme).format(marker=MARKER, raw=PASSWORD)
    config = tmp_path / "replicator.toml"
    # JSON's strings are TOML's basic strings.
    config.write_text(f"[{section}]\nurl = {json.dumps(url, ensure_ascii=False)}\n", "utf-8")
    said = {"flag": cli("check", f"--{section}", url), "file": cli("run", "--config", str(config))}
    monkeypatch.setenv(f"REPLICATOR_{section.upper()}__URL", url)
    said |= {
        " ".join(words): cli(*words) for words in (("run",), ("status",), ("listen", "--json"))
    }

    for place, done in said.items():
        assert done.status == 2, place
        assert f"{section}.url" in done.out + done.err, place
        assert_hidden({place: done.out + done.err})


@pytest.mark.parametrize(
    "text",
    [
        # No TOML.
        '[rethinkdb]\nurl = "rethinkdb://u:{marker}@h\n',
        "[rethinkdb]\nurl = rethinkdb://u:{marker}@h\n",
        "[rethinkdb]\npassword = {marker}\n",
        '[rethinkdb]\npassword = "{marker}\\q"\n',
        '["rethinkdb://u:{marker}@h"]\n["rethinkdb://u:{marker}@h"]\n',
        # TOML, and no settings.
        '"amqp://u:{marker}@h" = 1\n',
        '[rethinkdb]\npassword = "{marker}"\n',
        '[rabbitmq]\npassword_file = "{marker}"\n',
        '[rabbitmq]\npassword_file = ["{marker}"]\n',
        '[rabbitmq]\nurl = "amqps://h"\ntls_key_file = "-----BEGIN PRIVATE KEY-----{marker}"\n',
        'rethinkdb = "rethinkdb://u:{marker}@h"\n',
        '[rethinkdb]\nurl = ["rethinkdb://u:{marker}@h"]\n',
        '[rabbitmq]\nexchange = 7\nurl = {{ user = "u", password = "{marker}" }}\n',
        '[rabbitmq]\nwindow = "amqp://u:{marker}@h"\n',
        '[rabbitmq]\nheaders = "amqp://u:{marker}@h"\n',
        '[outbox]\nurl = "postgresql//u:{marker}@h/db"\n',
        '[outbox]\nurl = "postgresql://u:{marker}@h/db"\n',
        '[http]\nlisten = "http://u:{marker}@h"\n',
        'tables = ["amqp://u:{marker}@h"]\n',
    ],
)
def test_a_wrong_settings_file_is_refused_without_its_secrets(
    cli: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    for name in ("TABLES", "OUTBOX__URL") if "tables" in text or "outbox" in text else ():
        monkeypatch.delenv(f"REPLICATOR_{name}")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "replicator.toml"
    config.write_text(text.format(marker=MARKER), "utf-8")

    for command in (("run",), ("check",), ("check", "--json")):
        done = cli(*command, "--config", str(config))
        assert done.status == 2
        assert_hidden({" ".join(command): done.out + done.err})


@pytest.mark.parametrize("section", ["rethinkdb", "rabbitmq"])
def test_a_password_in_two_places_is_refused_and_not_shown(
    cli: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, section: str
) -> None:
    scheme = "amqp" if section == "rabbitmq" else section
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv(f"REPLICATOR_{section.upper()}__PASSWORD_FILE", str(tmp_path / "password"))

    done = cli("run", f"--{section}", f"{scheme}://u:{IN_URL}@h")

    assert done.status == 2
    assert "contradicts the password in url" in done.err
    assert_hidden({"error": done.out + done.err})


@pytest.mark.parametrize(
    "words",
    [
        ("run", "rethinkdb://u:{marker}@h"),
        ("rethinkdb://u:{marker}@h",),
        ("run", "--url=rethinkdb://u:two {marker}@h"),
        ("listen", "--count", "amqp://u:{marker}@h"),
        ("outbox", "list", "--limit", "amqp://u:{marker}@h"),
        ("outbox", "show", "amqp://u:{marker}@h"),
        ("outbox", "amqp://u:{marker}@h"),
        ("run", "--log-level", "amqp://u:{marker}@h"),
    ],
)
def test_wrong_usage_is_told_without_passwords(cli: Command, words: tuple[str, ...]) -> None:
    done = cli(*(word.format(marker=MARKER) for word in words))

    assert done.status == 2
    assert done.err
    assert_hidden({"usage": done.out + done.err})


def test_an_error_of_any_library_loses_the_passwords_of_its_urls(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ReplicatorError(f"amqp://u:{MARKER}@h failed", hint=f"amqp://u:{MARKER}@h")

    monkeypatch.setattr("replicator.cli.run.run_until_signalled", fail)
    done = cli("run")

    assert "amqp://u:***@h failed" in done.err
    assert_hidden({"error": done.out + done.err})
