"""The unit of systemd: right for this program. tools/deploy-check.sh asks systemd itself."""

import re
from collections.abc import Iterator
from pathlib import Path

from replicator.config import load_settings
from replicator.errors import PermanentError
from tests.deploy.programs import DEPLOY, PROJECT

_UNIT = DEPLOY / "systemd/replicator.service"
_CREDENTIALS = "%d"
_STATE = "%S"


def _values(key: str) -> list[str]:
    return [value for name, value in _lines() if name == key]


def _value(key: str) -> str:
    (value,) = _values(key)
    return value


def _lines() -> Iterator[tuple[str, str]]:
    for line in _UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value


def test_the_settings_are_taken_from_what_systemd_hands_over(tmp_path: Path) -> None:
    # Given the files of /etc/replicator, as the service sees them
    handed_over = {value.partition(":")[0] for value in _values("LoadCredential")}
    for name in handed_over:
        (tmp_path / name).write_text("secret\n")
    (tmp_path / "replicator.toml").write_text('[[tables]]\nname = "shop.orders"\n')
    # When they are loaded with the unit's environment
    environment = {
        name: value.replace(_CREDENTIALS, str(tmp_path)).replace(_STATE, "/var/lib")
        for name, _, value in (each.partition("=") for each in _values("Environment"))
    }
    settings = load_settings(environ=environment)
    # Then each is used, and the outbox lies where the service may write
    used = {Path(value).name for value in environment.values() if str(tmp_path) in value}
    assert used == handed_over
    assert (settings.rethinkdb.password, settings.rabbitmq.password) == ("secret", "secret")
    assert settings.outbox.url == f"sqlite:////var/lib/{_value('StateDirectory')}/outbox.db"
    assert _value("DynamicUser") == "yes"


def test_the_command_line_of_check_in_the_runbook_is_of_the_same_settings() -> None:
    runbook = (PROJECT / "docs/operations.md").read_text().replace("\\\n", "")
    (line,) = re.findall(r"^ +sudo env (.* check --outbox .*)$", runbook, re.MULTILINE)
    *settings, program, _, _, outbox = line.split()
    told = {
        value.replace(_CREDENTIALS, "/etc/replicator").replace(_STATE, "/var/lib")
        for value in _values("Environment")
    }
    assert {*settings, f"REPLICATOR_OUTBOX__URL={outbox}"} == told
    assert program == _value("ExecStart").split()[0]


def test_an_error_that_does_not_pass_is_not_tried_again() -> None:
    assert int(_value("RestartPreventExitStatus")) == PermanentError.exit_status
    assert _value("Restart") == "always"
    assert _value("StartLimitIntervalSec") == "0"


def test_a_stop_may_drain() -> None:
    settings = load_settings(environ={"REPLICATOR_TABLES": "a.b"})
    assert int(_value("TimeoutStopSec")) > settings.drain_timeout.total_seconds() + 30
